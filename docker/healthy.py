#!/usr/bin/env python3
"""Exit with 0 when every given URL on this machine answers; with 1 otherwise.

``healthy.py [--wait SECONDS] URL...`` needs nothing but Python, and asks again until then.
"""

import argparse
import sys
import time
import urllib.error
import urllib.request

PAUSE_S = 0.5
PATIENCE_S = 5.0


def answers(url: str) -> bool:
    """Return whether ``url`` answers with a status below 400."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=PATIENCE_S):
            return True
    except (OSError, urllib.error.URLError):
        return False


def main() -> None:
    """Ask every URL until it answers or the time is up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wait", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("urls", nargs="+", metavar="URL")
    given = parser.parse_args()
    end = time.monotonic() + given.wait
    for url in given.urls:
        while not answers(url):
            if time.monotonic() >= end:
                sys.exit(f"no answer from {url}")
            time.sleep(PAUSE_S)


if __name__ == "__main__":
    main()
