"""A stand-in for the trainer's agent: the same command line, port, answers and endings.

What it does is read from `<store>/behaviour/<stage>-<index>-<incarnation>`, where there is such
a file: an exit code to end with at once; `wait`: work with one rank until SIGTERM, then save and
leave; `ignore`: do not leave at all. A rank's process id is written to `<behaviour>.rank`.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from llmtrain_api import ExitCode, RunConfig

RESULTS: dict[str, dict[str, Any]] = {
    "prepare": {"dataset": "f" * 16},
    "train": {"exportUri": "s3://bucket/export", "step": 10},
    "evaluate": {"reportUri": "s3://bucket/report.html", "validationLoss": 1.5},
}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["agent"])
    parser.add_argument("--config", type=Path)
    parser.add_argument("--stage")
    parser.add_argument("--index", type=int)
    parser.add_argument("--incarnation", type=int)
    parser.add_argument("--termination-log", type=Path)
    parser.add_argument("--host")
    parser.add_argument("--workers", type=int)
    options = parser.parse_args()
    config = RunConfig.model_validate_json(options.config.read_text())
    leave = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: leave.set())
    port = config.rendezvous.find_port(options.index)
    server = ThreadingHTTPServer((options.host, port), _make_handler(options, config))
    threading.Thread(target=server.serve_forever, daemon=True).start()

    assert config.storage.local_root is not None
    name = f"{options.stage}-{options.index}-{options.incarnation}"
    behaviour = Path(config.storage.local_root, "behaviour", name)
    wish = behaviour.read_text() if behaviour.exists() else "0"
    if wish in ("wait", "ignore"):
        rank = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        behaviour.with_suffix(".rank").write_text(str(rank.pid))
        leave.wait()
        while wish == "ignore":
            time.sleep(600)
        rank.kill()
        rank.wait()
        wish = str(int(ExitCode.PREEMPTED))
    code = ExitCode(int(wish))
    record: dict[str, Any] = {
        "code": int(code),
        "reason": code.name.title().replace("_", ""),
        "message": f"ended with {code.name}",
    }
    if code is ExitCode.SUCCEEDED:
        record["result"] = RESULTS[options.stage]
    options.termination_log.write_text(json.dumps(record))
    return int(code)


def _make_handler(options: argparse.Namespace, config: RunConfig) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(
                {
                    "stage": options.stage,
                    "index": options.index,
                    "incarnation": options.incarnation,
                    "ranks": [{"rank": options.index, "phase": "training", "heartbeat": 0.0}],
                    "round": 1,
                    "step": 3,
                    "totalSteps": config.training.steps,
                    "loss": 2.5,
                    "tokensPerSecond": 1000.0,
                    "checkpointStep": 2,
                    "now": time.time(),
                }
            ).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            return

    return Handler


if __name__ == "__main__":
    raise SystemExit(main())
