"""The real front end over toy workers, in a process of its own.  toy_server.py FOLDER JSON_OF_OPTIONS"""

import json
import sys
from pathlib import Path

from serving.contract import Settings
from serving.engine import LocalEngine, Patience
from serving.jobs import Retention
from serving.schema import Limits
from serving.server import Options, serve
from unlearn_export.errors import UnlearnExportError


def main() -> None:
    options = json.loads(sys.argv[2])
    settings = {
        name: options.pop(name) for name in ("backend", "allow_original", "defaults", "more") if name in options
    }
    engine = LocalEngine(
        Settings(options.pop("source", "toy"), "toy", **settings),
        options.pop("devices", ["cpu"]),
        max_batch=options.pop("max_batch", 4),
        patience=Patience(restart=0.05, **options.pop("patience", {})),
        command=(sys.executable, str(Path(__file__).with_name("toy_worker.py"))),
    )
    limits = Limits(**{"cost": 10**9} | options.pop("limits", {}))
    retention = Retention(**options.pop("retention", {}))
    keys = Path(options.pop("keys")) if "keys" in options else None
    chosen = {"name": "toy", "port": 0, "grace": 2} | options
    say = lambda text: print(text, flush=True)  # noqa: E731
    serve(engine, Options(folder=Path(sys.argv[1]), keys=keys, limits=limits, retention=retention, **chosen), say)


if __name__ == "__main__":
    try:
        main()
    except UnlearnExportError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
