"""A command whose options are given once: of two values that were asked for, neither is passed over."""

from __future__ import annotations

from collections import Counter
from typing import Any

import typer
from typer.core import TyperCommand, TyperOption

from drkit.errors import UsageError


class GivenOnce(TyperCommand):
    """Raises UsageError for an option with a value that is given twice, unless it takes several."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        for parameter, count in Counter(order).items():
            if count > 1 and isinstance(parameter, TyperOption) and not (parameter.is_flag or parameter.multiple):
                raise UsageError(
                    f"{parameter.opts[0]} is given {count} times, and takes one value",
                    hint=f"Give it once, or run {ctx.command_path} once for each.",
                )
        return super().parse_args(ctx, args)


def require_given_once(app: typer.Typer) -> None:
    """Make every command of an app, and of the groups in it, one of these."""
    for command in app.registered_commands:
        command.cls = GivenOnce
    for group in app.registered_groups:
        if group.typer_instance is not None:
            require_given_once(group.typer_instance)
