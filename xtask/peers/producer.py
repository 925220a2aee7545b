"""Writes to the topics of Kafka, in the fixed JSON forms, or what is none of them. Ends when brokers have all of it."""

import argparse
import json
import sys
import time
from datetime import datetime, timezone

from confluent_kafka import Producer


def as_json(value):
    return json.dumps(value).encode()


def snapshot(agent_id, cpu_percent):
    """As many a Python program makes it: the local time in UTC, and no offset."""
    return {
        "agent_id": agent_id,
        "timestamp": datetime.now(timezone.utc).replace(tzinfo=None).isoformat(),
        "metrics": {
            "cpu_percent": cpu_percent,
            "memory_percent": 50,
            "memory_used_mb": 1024.0,
            "memory_total_mb": 2048.0,
            "disk_read_mb": 0.5,
            "disk_write_mb": 1.5,
            "net_in_mb": 0.25,
            "net_out_mb": 0.125,
        },
        "metadata": {"made_by": "python"},
    }


def command(agent_id, kind, params):
    return {"agent_id": agent_id, "type": kind, "params": params, "timestamp": int(time.time())}


def snapshots(given):
    for n in range(given.count):
        yield "monitoring-data", given.agent_id, as_json(snapshot(given.agent_id, n + 0.25))


def commands(given):
    params = dict(param.split("=", 1) for param in given.param)
    yield "commands", given.agent_id, as_json(command(given.agent_id, given.type, params))


def repeated(given):
    """One command_id, many times."""
    once = as_json(command(given.agent_id, given.type, {}) | {"command_id": given.command_id})
    for _ in range(given.count):
        yield "commands", given.agent_id, once


def garbage(given):
    """Records that are none, of every kind, by topic."""
    agent_id = given.agent_id
    good = {
        "monitoring-data": snapshot(agent_id, 1.0),
        "commands": command(agent_id, "STOP", {}),
        "command-responses": {"agent_id": agent_id, "success": True, "message": "", "timestamp": 1},
        "agent-status": {"agent_id": agent_id, "event": "HEARTBEAT", "timestamp": "2026-01-01T00:00:00Z"},
    }
    for topic, record in good.items():
        whole = as_json(record)
        # No value, or too much of one.
        yield topic, agent_id, None
        yield topic, agent_id, b""
        yield topic, agent_id, as_json(record | {"fill": "x" * 600_000})
        # No JSON.
        yield topic, agent_id, whole[: len(whole) // 2]
        yield topic, agent_id, b"\x00\xff\xfe\x80"
        yield topic, agent_id, b"[" * 100_000
        yield topic, agent_id, whole.replace(agent_id.encode(), b"\xc3\x28")
        # JSON of another form.
        for other in (None, True, 7, "text", [], [record], {}):
            yield topic, agent_id, as_json(other)
        # An agent that is none, or another than the key says.
        for name in (None, 7, "", "../../etc/passwd", "a" * 64, "a\x00b", "a b", "\N{PILE OF POO}", [agent_id]):
            yield topic, agent_id, as_json(record | {"agent_id": name})
        yield topic, None, as_json(record | {"agent_id": "../../etc/passwd"})
        yield topic, "no agent id", whole
        yield topic, b"\xff\xff", whole
        yield topic, f"{agent_id}-other", whole
        yield topic, agent_id, as_json(without(record, "agent_id"))
    record = good["monitoring-data"]
    for change in (
        {"metrics": None},
        {"metrics": [1, 2]},
        {"metrics": {"cpu_percent": "12"}},
        {"metrics": {"cpu_percent": float("nan")}},
        {"metrics": {"cpu_percent": float("inf")}},
        {"metrics": {"cpu_percent": 1e300}},
        {"metadata": {"rack": 7}},
        {"metadata": "rack"},
        {"timestamp": None},
        {"timestamp": "noon"},
        {"timestamp": 1_700_000_000},
        {"timestamp": "2026-13-32T25:61:61"},
    ):
        yield "monitoring-data", agent_id, as_json(record | change)
    for key in ("metrics", "timestamp"):
        yield "monitoring-data", agent_id, as_json(without(record, key))
    record = good["commands"]
    for change in (
        {"type": "EXPLODE"},
        {"type": None},
        {"type": {}},
        {"params": ["STOP"]},
        {"params": "STOP"},
        {"timestamp": "noon"},
        {"command_id": 7},
        {"ttl_ms": -1},
    ):
        yield "commands", agent_id, as_json(record | change)
    yield "commands", agent_id, as_json(without(record, "type"))


def without(record, key):
    return {name: value for name, value in record.items() if name != key}


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("brokers", metavar="HOST:PORT")
    arguments.add_argument("--partitioner", help="librdkafka's own if it is not given; Java's is murmur2_random")
    what = arguments.add_subparsers(required=True)

    def form(name, make, takes_type):
        parser = what.add_parser(name, help=make.__doc__)
        parser.set_defaults(make=make)
        parser.add_argument("agent_id")
        if takes_type:
            parser.add_argument("type")
        return parser

    form("snapshots", snapshots, False).add_argument("--count", type=int, default=1)
    form("command", commands, True).add_argument("--param", metavar="KEY=VALUE", action="append", default=[])
    repeat = form("repeat", repeated, True)
    repeat.add_argument("command_id")
    repeat.add_argument("--count", type=int, default=20)
    form("garbage", garbage, False)
    given = arguments.parse_args()

    settings = {"bootstrap.servers": given.brokers}
    if given.partitioner is not None:
        settings["partitioner"] = given.partitioner
    producer = Producer(settings)
    sent, failed = {}, []

    def report(error, message):
        if error is not None:
            failed.append(f"{message.topic()}: {error}")

    for topic, key, value in given.make(given):
        producer.produce(topic, key=key, value=value, on_delivery=report)
        sent[topic] = sent.get(topic, 0) + 1
    left = producer.flush(50)
    if failed or left:
        sys.exit("; ".join(failed) or f"{left} records were not taken in time")
    print(json.dumps({"sent": sent}))


main()
