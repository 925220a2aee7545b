"""The gRPC side of the fixed facts, and how a peer says what it sees."""

import json
import sys
from concurrent import futures

import grpc

# Compiles the file that lies beside this program.
messages, services = grpc.protos_and_services("monitoring.proto")

METRICS = (
    "cpu_percent",
    "memory_percent",
    "memory_used_mb",
    "memory_total_mb",
    "disk_read_mb",
    "disk_write_mb",
    "net_in_mb",
    "net_out_mb",
)

# Peers talk over loopback, whatever the environment says of proxies.
OPTIONS = (("grpc.enable_http_proxy", 0),)


def say(**what):
    """One line for whoever watches, at once."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def stub(channel):
    return services.MonitoringServiceStub(channel)


def channel(address):
    return grpc.insecure_channel(address, options=OPTIONS)


def server(servicer):
    """A server with a thread for each stream, for a handful of agents."""
    # Two servers on one port, which gRPC allows by itself, would share the agents between them.
    options = OPTIONS + (("grpc.so_reuseport", 0),)
    made = grpc.server(futures.ThreadPoolExecutor(max_workers=32), options=options)
    services.add_MonitoringServiceServicer_to_server(servicer, made)
    return made


def command_as_json(command):
    return {
        "command_id": command.command_id,
        "agent_id": command.agent_id,
        "type": messages.Command.CommandType.Name(command.type),
        "timestamp": command.timestamp,
    }
