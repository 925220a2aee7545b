"""An agent that knows only the fixed facts: streams snapshots, and prints the commands that come.

Snapshot n, from 0, has n + 0.25 as its cpu_percent, so that a gap shows; the other metrics never change.
"""

import argparse
import itertools
import time

import grpc

import wire


def snapshots(agent_id, interval):
    for n in itertools.count():
        yield wire.messages.MetricsRequest(
            agent_id=agent_id,
            timestamp=int(time.time()),
            metrics=wire.messages.SystemMetrics(
                cpu_percent=n % 100 + 0.25,
                memory_percent=50.0,
                memory_used_mb=1024.0,
                memory_total_mb=2048.0,
                disk_read_mb=0.5,
                disk_write_mb=1.5,
                net_in_mb=0.25,
                net_out_mb=0.125,
            ),
            metadata={"made_by": "python"},
        )
        time.sleep(interval)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("server", metavar="HOST:PORT")
    arguments.add_argument("agent_id")
    arguments.add_argument("--interval", type=float, default=0.2, help="seconds")
    given = arguments.parse_args()

    with wire.channel(given.server) as channel:
        stream = wire.stub(channel).StreamMetrics(snapshots(given.agent_id, given.interval))
        try:
            for command in stream:
                wire.say(command=wire.command_as_json(command))
            wire.say(end="the server has ended the stream")
        except grpc.RpcError as error:
            wire.say(end=error.details(), code=error.code().name)


main()
