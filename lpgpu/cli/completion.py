"""`lpgpu completion SHELL`: a script for the shell, made from the parser, that completes commands and options.

eval "$(lpgpu completion bash)"      # in ~/.bashrc; for zsh: … completion zsh, in ~/.zshrc
"""

import argparse
from collections.abc import Iterator

FILES = "@files"

_SCRIPT = """\
{prelude}_lpgpu() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" path="" given words
    for given in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case "$path $given" in {paths}) path="$path $given" ;; esac
    done
    case "$path|$before" in
{values}
    *) case "$path" in
{options}
        esac ;;
    esac
    if [ "$words" = "{files}" ]; then COMPREPLY=($(compgen -f -- "$word"))
    else COMPREPLY=($(compgen -W "$words" -- "$word")); fi
}}
complete -o filenames -o bashdefault -F _lpgpu lpgpu
"""


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `completion`."""
    parser = commands.add_parser("completion", help='for the shell\'s start file: eval "$(lpgpu completion bash)"')
    parser.add_argument("shell", metavar="SHELL", choices=("bash", "zsh"), help="bash or zsh")
    parser.set_defaults(command=lambda arguments: print(script(arguments.root, arguments.shell)), parser=parser)


def script(root: argparse.ArgumentParser, shell: str) -> str:
    """The script that completes what `root` understands."""
    parsers = dict(_parsers(root, ""))
    paths = "|".join(f'"{path}"' for path in parsers if path)
    values, options = [], []
    for path, parser in parsers.items():
        words: list[str] = []
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                words += action.choices
            elif not action.option_strings:
                words += [FILES] if action.choices is None else map(str, action.choices)
            elif action.choices is not None or action.nargs != 0:
                given = " ".join(map(str, action.choices or [FILES]))
                values.append(f'    "{path}|{action.option_strings[-1]}") words="{given}" ;;')
            words += action.option_strings
        wanted = FILES if FILES in words else " ".join(words)
        flags = " ".join(word for word in words if word.startswith("-"))
        one = f'if [[ "$word" == -* ]]; then words="{flags}"; else words="{wanted}"; fi'
        options.append(f'        "{path}") {one} ;;')
    prelude = "autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else ""
    return _SCRIPT.format(
        prelude=prelude, paths=paths, values="\n".join(values), options="\n".join(options), files=FILES
    )


def _parsers(parser: argparse.ArgumentParser, path: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """A parser and those of its commands, by the words that lead to them."""
    yield path, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield from _parsers(command, f"{path} {name}")
