"""``dsvl completion``: a script that completes commands, options and their values in a shell."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from dsvl_pipeline.cli.options import option
from dsvl_pipeline.cli.output import Output
from dsvl_pipeline.cli.parser import COMMANDS, build_command

EXAMPLES = """\
source <(dsvl completion bash)                                  # in this shell, or in ~/.bashrc
dsvl completion zsh > ~/.zfunc/_dsvl                            # a directory of $fpath
dsvl completion fish > ~/.config/fish/completions/dsvl.fish"""
NOTES = """\
The script holds all names itself, so that nothing is started while one types. Print it again when
a new version is installed."""
EXIT_CODES = {0: "printed", 2: "no such shell"}
OPTIONS = (option("shell", choices=["bash", "zsh", "fish"], help="whose script"),)

_BASH = """\
_dsvl() {
  local word=${COMP_WORDS[COMP_CWORD]} words=
  if [ "$COMP_CWORD" = 1 ]; then
    words='%s'
  else
    case ${COMP_WORDS[1]}:${COMP_WORDS[COMP_CWORD-1]}:$word in
%s
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -o default -F _dsvl dsvl"""
_ZSH = """\
#compdef dsvl
_dsvl() {
  if (( CURRENT == 2 )); then
    local -a commands=(
%s
    )
    _describe command commands
    return
  fi
  shift words
  (( CURRENT-- ))
  case $words[1] in
%s
  esac
}
if [ "$funcstack[1]" = _dsvl ]; then _dsvl "$@"; else compdef _dsvl dsvl; fi"""


def execute(args: argparse.Namespace, output: Output) -> int:
    """Print the script."""
    make = {"bash": _bash, "zsh": _zsh, "fish": _fish}[args.shell]
    script = make({name: build_command(name)._actions for name in COMMANDS})
    output.result({"shell": args.shell, "script": script}, script)
    return 0


Commands = dict[str, list[argparse.Action]]
"""What each command takes."""


def _bash(commands: Commands) -> str:
    cases = []
    for name, actions in commands.items():
        cases += [
            f"      {name}:{before}:*) words='{_choices(action)}' ;;"
            for action in actions
            if action.choices
            for before in action.option_strings or [name]
        ]
        options = " ".join(one for action in actions for one in action.option_strings)
        cases.append(f"      {name}:*:-*) words='{options}' ;;")
    return _BASH % (" ".join([*commands, "--help", "--version"]), "\n".join(cases))


def _zsh(commands: Commands) -> str:
    described = [f"      {_quoted(f'{name}:{COMMANDS[name]}')}" for name in commands]
    cases = [
        f"    {name}) _arguments {' '.join(_quoted(one) for one in _zsh_specs(actions))} ;;"
        for name, actions in commands.items()
    ]
    return _ZSH % ("\n".join(described), "\n".join(cases))


def _zsh_specs(actions: list[argparse.Action]) -> Iterator[str]:
    for action in actions:
        told = (action.help or "").replace("[", r"\[").replace("]", r"\]").replace(":", r"\:")
        value = f":{action.metavar or action.dest}:"
        value += f"({_choices(action)})" if action.choices else "_files"
        if not action.option_strings:
            yield {"?": ":", "*": "*"}.get(str(action.nargs), "") + value
        repeats = "*" if isinstance(action.default, list) else ""
        for name in action.option_strings:
            yield repeats + (f"{name}[{told}]" if action.nargs == 0 else f"{name}=[{told}]{value}")


def _fish(commands: Commands) -> str:
    lines = []
    for name, actions in commands.items():
        told = _quoted(COMMANDS[name])
        lines.append(f"complete -c dsvl -n __fish_use_subcommand -f -a {name} -d {told}")
        for action in actions:
            given = [
                f" -l {one[2:]}" if one.startswith("--") else f" -s {one[1:]}"
                for one in action.option_strings
            ]
            value = " -r" if given and action.nargs != 0 else ""
            if action.choices:
                value = f" -x -a '{_choices(action)}'"
            if given or value:
                lines.append(
                    f"complete -c dsvl -n '__fish_seen_subcommand_from {name}'{''.join(given)}"
                    f"{value} -d {_quoted(action.help or '')}"
                )
    return "\n".join(lines)


def _choices(action: argparse.Action) -> str:
    return " ".join(map(str, action.choices or ()))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
