"""Run by a Python that has SINETStream: prints each message of a service as one JSON line."""

import json
import sys

from sinetstream import MessageReader

with MessageReader(sys.argv[1]) as reader:
    print("ready", flush=True)
    for message in reader:
        print(json.dumps([message.topic, message.value, message.timestamp_us]), flush=True)
