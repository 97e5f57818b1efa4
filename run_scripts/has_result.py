"""Whether the file of --out has the result of a command already, with the same settings: status 0 if so, else 1.

python run_scripts/has_result.py win-rate|cross-play [OPTIONS]
"""

import json
import sys
from pathlib import Path

from vision_zero.evaluate.win_rate.options import parse
from vision_zero.models import find_models
from vision_zero.run_folder import read_json_lines


def main() -> None:
    command, *arguments = sys.argv[1:]
    try:
        options = parse(arguments, command)
        wanted = {str(Path(model).resolve()) for name in options.models for model in find_models([name])}
        settings = json.loads(json.dumps(options.settings()))
        lines = [line for line in read_json_lines(Path(str(options.config.out))) if line.get("settings") == settings]
        found = [[line["model"]] if command == "win-rate" else [*line["models"].values()][1:] for line in lines]
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    of_one_line = [{str(Path(model).resolve()) for model in models} for models in found]
    sys.exit(0 if wanted in of_one_line or (command == "win-rate" and wanted <= set().union(*of_one_line)) else 1)


if __name__ == "__main__":
    main()
