"""An analyst's program that knows only the fixed facts: sends one command, and prints the answer."""

import argparse
import sys
import time

import grpc

import wire


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("server", metavar="HOST:PORT")
    arguments.add_argument("agent_id")
    arguments.add_argument("type", choices=wire.messages.Command.CommandType.keys())
    given = arguments.parse_args()

    command = wire.messages.Command(
        agent_id=given.agent_id,
        type=wire.messages.Command.CommandType.Value(given.type),
        timestamp=int(time.time()),
    )
    with wire.channel(given.server) as channel:
        try:
            response = wire.stub(channel).SendCommand(command)
        except grpc.RpcError as error:
            wire.say(error=error.details(), code=error.code().name)
            sys.exit(1)
    wire.say(
        success=response.success,
        message=response.message,
        agent_id=response.agent_id,
        timestamp=response.timestamp,
    )


main()
