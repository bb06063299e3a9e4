"""GrowthBook's SDK under the same questions as ours; run by loadtests.assignment in an environment that has only the SDK."""

from __future__ import annotations

import json
import sys
from time import process_time

from growthbook import GrowthBook


def main() -> None:
    given = json.loads(sys.stdin.readline())
    names = list(given["features"])
    sdk = GrowthBook(features=given["features"])
    for _ in sys.stdin:
        values = []
        started = process_time()
        for user in given["users"]:
            sdk.set_attributes(user)
            values.append([sdk.eval_feature(name).value for name in names])
        seconds = process_time() - started
        print(json.dumps({"seconds": seconds, "values": values}), flush=True)


if __name__ == "__main__":
    main()
