"""Reads topics of Kafka from their beginning, and prints the records of one agent, by their fixed keys alone.

Ends with an error at a record of that agent that has not what the fixed facts say.
"""

import argparse
import json
import sys
import uuid
from datetime import datetime

from confluent_kafka import Consumer, KafkaError

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


def snapshot(value):
    time = datetime.fromisoformat(value["timestamp"].replace("Z", "+00:00"))
    if not all(type(text) is str for text in value["metadata"].values()):
        raise TypeError("metadata is not of strings")
    return {
        "agent_id": value["agent_id"],
        "timestamp": time.timestamp(),
        # What is switched off is absent.
        "metrics": {name: float(value["metrics"][name]) for name in METRICS if name in value["metrics"]},
        "metadata": value["metadata"],
    }


def command(value):
    return {
        "agent_id": value["agent_id"],
        "type": value["type"],
        "params": dict(value["params"]),
        "timestamp": int(value["timestamp"]),
    }


def response(value):
    return {
        "agent_id": value["agent_id"],
        "success": bool(value["success"]),
        "message": str(value["message"]),
        "timestamp": int(value["timestamp"]),
    }


def status(value):
    """Of this topic only the name and the key are fixed; people read the rest."""
    return value


FORMS = {
    "monitoring-data": snapshot,
    "commands": command,
    "command-responses": response,
    "agent-status": status,
}


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("brokers", metavar="HOST:PORT")
    arguments.add_argument("agent_id")
    arguments.add_argument("topics", nargs="+", choices=FORMS)
    given = arguments.parse_args()

    consumer = Consumer(
        {
            "bootstrap.servers": given.brokers,
            "group.id": f"consumer-{uuid.uuid4()}",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            # Topics may come later than the consumer.
            "topic.metadata.refresh.interval.ms": 1000,
        }
    )
    consumer.subscribe(given.topics)
    while True:
        message = consumer.poll(1.0)
        if message is None:
            continue
        if message.error():
            if message.error().code() == KafkaError.UNKNOWN_TOPIC_OR_PART or message.error().retriable():
                continue
            sys.exit(str(message.error()))
        if message.key() != given.agent_id.encode():
            continue
        record = FORMS[message.topic()](json.loads(message.value()))
        print(json.dumps({"topic": message.topic(), "record": record}), flush=True)


main()
