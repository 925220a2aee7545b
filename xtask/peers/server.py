"""A server that knows only the fixed facts: prints what agents stream, and passes commands on to them.

Like many a server it sends no headers before its first command.
"""

import argparse
import queue
import threading
import time

from google.protobuf.unknown_fields import UnknownFieldSet

import wire


class Monitoring(wire.services.MonitoringServiceServicer):
    def __init__(self):
        self.lock = threading.Lock()
        self.outboxes = {}

    def StreamMetrics(self, requests, context):
        wire.say(stream="opened")
        outbox = queue.Queue(maxsize=100)
        threading.Thread(target=self.read, args=(requests, outbox), daemon=True).start()
        while (command := outbox.get()) is not None:
            yield command

    def read(self, requests, outbox):
        try:
            for request in requests:
                with self.lock:
                    self.outboxes[request.agent_id] = outbox
                wire.say(message=message_as_json(request))
        except Exception as error:  # The agent is gone.
            wire.say(stream="broken", why=repr(error))
        else:
            wire.say(stream="ended")
        outbox.put(None)

    def SendCommand(self, command, context):
        with self.lock:
            outbox = self.outboxes.get(command.agent_id)
        if outbox is not None:
            outbox.put(command)
        return wire.messages.CommandResponse(
            success=outbox is not None,
            message="passed on" if outbox is not None else "there is no such agent",
            agent_id=command.agent_id,
            timestamp=int(time.time()),
        )


def message_as_json(request):
    return {
        "agent_id": request.agent_id,
        "timestamp": request.timestamp,
        "has_metrics": request.HasField("metrics"),
        "metrics": {name: getattr(request.metrics, name) for name in wire.METRICS},
        "metadata": dict(request.metadata),
        # Fields that it does not know, and passes over.
        "unknown": sorted({field.field_number for field in UnknownFieldSet(request)}),
    }


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("listen", metavar="HOST:PORT", help="port 0 takes any free one")
    given = arguments.parse_args()

    server = wire.server(Monitoring())
    port = server.add_insecure_port(given.listen)
    server.start()
    host = given.listen.rpartition(":")[0]
    wire.say(listening=f"{host}:{port}")
    server.wait_for_termination()


main()
