"""``medseg <command> key=value ...``: a table of commands, each imported only when asked for.

Knows nothing of what the commands do. The only place that catches MedsegError, and what the system refuses: message on
stderr, exit code 2, no traceback; ``debug=true`` shows it.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence

COMMANDS: dict[str, str] = {
    "plan": "measure a dataset and plan networks for it",
    "augment": "a picture of what each augmentation does to the dataset",
    "pretrain": "a start for training, learned from images without labels",
    "train": "prepare the data, train a fold and score it",
    "compare": "train several networks or losses alike and compare them",
    "select": "compare configurations and pairs on held-out cases, learn post-processing",
    "calibrate": "learn from held-out cases how far probabilities can be trusted",
    "predict": "segment new images with a trained model",
    "dicom": "segment DICOM studies: a folder, a folder they arrive in, a port or an archive",
    "explain": "what the score of a predicted structure depends on",
    "report": "one web page for an experiment or a folder of predictions, and one for each case",
    "view": "look at cases and at what was found in them, in a browser; review them",
    "bundle": "collect trained folds in one folder to carry away",
    "prune": "cut a trained U-Net++ down to its first levels, with the measured loss",
    "export": "write a model as ONNX or TorchScript for other programs",
    "import": "turn a trained nnU-Net v2 model into a bundle",
    "test": "score a model on the test set that was set aside",
    "evaluate": "compare predictions with labels",
    "check": "list everything that is wrong with a dataset",
    "convert": "turn a DICOM folder into NIfTI, with a manifest",
    "benchmark": "time medseg beside nnU-Net and MONAI on this machine",
    "federated": "hospitals train one model, and no image leaves",
    "info": "version, devices, presets, networks, workspaces",
}
VERBS: dict[str, dict[str, str]] = {
    "federated": {
        "simulate": "hospitals in one process: what a federation is worth before one is founded",
        "init": "keys, certificates, service files and the app of a federation",
        "serve": "the coordinator, until it is stopped",
        "join": "a hospital takes part, until it is stopped",
        "run": "one training over all hospitals of a federation",
        "resume": "go on with a run from its last whole round",
        "status": "how a federation or a site stands, and whether its log was changed",
        "check-site": "whether a site's data fit to take part, and what a check tells the others",
        "pin-keys": "a hospital's key for secure sums, and the keys of the others",
        "privacy-cost": "what epsilon, noise and hospitals of your size mean for a model, computed beforehand",
    },
}
"""Commands whose first word is a verb, each a module of its own: ``medseg federated check-site dataset=DIR``."""
_MODULES = {
    "import": "import_model",
    "federated check-site": "federated_check_site",
    "federated pin-keys": "federated_pin_keys",
    "federated privacy-cost": "federated_privacy_cost",
}
"""Where a command can't be the name of its module."""
_HELP = {"help", "--help", "-h"}


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 interrupted, 2 a mistake in input or settings."""
    words = list(sys.argv[1:] if words is None else words)
    if not words or words[0] in _HELP:
        print(_overview())
        return 0
    if words[0] in {"--version", "version"}:
        from medseg import __version__

        print(f"medseg {__version__}")
        return 0
    from medseg.errors import MedsegError

    debug = "debug=true" in words
    words = [word for word in words if word not in {"debug=true", "debug=false"}]
    try:
        return _run(words[0], words[1:])
    except BrokenPipeError:
        # Whoever read our output (head, less) has gone; what is still buffered must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (MedsegError, OSError) as error:
        if debug:
            raise
        hint = ". Check that it is there and that you may use it." if isinstance(error, OSError) else ""
        print(f"medseg {words[0]}: {error}{hint}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted; everything written so far is whole.", file=sys.stderr)
        return 1


def _run(name: str, words: list[str]) -> int:
    if name not in COMMANDS:
        raise _unknown("", name, COMMANDS)
    meaning = COMMANDS[name]
    if name in VERBS:
        if not words or words[0] in _HELP:
            print(_verbs_help(name))
            return 0
        verb, *words = words
        if verb not in VERBS[name]:
            raise _unknown(f"{name} ", verb, VERBS[name])
        name, meaning = f"{name} {verb}", VERBS[name][verb]
    command = importlib.import_module(f"medseg.commands.{_MODULES.get(name, name.replace(' ', '_'))}")
    if _HELP & set(words):
        print(_command_help(name, meaning, command.SETTINGS))
        return 0
    from medseg.settings import read_words

    return int(command.run(read_words(words)) or 0)


def _unknown(before: str, name: str, known: Mapping[str, str]) -> Exception:
    import difflib

    from medseg.errors import SettingsError

    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"Did you mean 'medseg {before}{near[0]}'?" if near else f"Known are: {', '.join(known)}."
    return SettingsError(f"There is no command '{before}{name}'. {hint}")


def _overview() -> str:
    rows = "\n".join(f"  medseg {name:<10}{meaning}" for name, meaning in COMMANDS.items())
    return (
        "medseg: medical image segmentation, from a folder of cases to a model you can trust\n\n"
        f"{rows}\n\nEvery setting is key=value. 'medseg COMMAND help' lists a command's settings; "
        "debug=true shows tracebacks.\nTry it without any data: medseg plan && medseg train fold=0"
    )


def _verbs_help(name: str) -> str:
    width = max(map(len, VERBS[name])) + 2
    rows = "\n".join(f"  medseg {name} {verb:<{width}}{meaning}" for verb, meaning in VERBS[name].items())
    return f"medseg {name}: {COMMANDS[name]}\n\n{rows}\n\n'medseg {name} VERB help' lists a verb's settings."


def _command_help(name: str, purpose: str, models: Sequence[type]) -> str:
    from medseg.settings import describe

    parts = [f"medseg {name}: {purpose}\n"]
    for model in models:
        rows = list(describe(model))
        if model is not models[0]:
            parts.append(f"\nReplacing the plan's values ({(model.__doc__ or '').splitlines()[0].rstrip('.')}):")
        width = max(len(key) for key, *_ in rows) + 2
        for key, kind, own_default, meaning in rows:
            default = own_default if model is models[0] else "the plan's"
            parts.append(f"  {key:<{width}}{meaning}\n  {'':<{width}}type {kind}, default {default}")
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
