"""Tools: a function or a LangChain tool with its rules, the caller it is given, the registry."""

from millstream.agents.tools.built_in import built_in_tools, calculate
from millstream.agents.tools.caller import Caller
from millstream.agents.tools.declared import AnyTool, declared, tool
from millstream.agents.tools.outcomes import CallNotMade, Outcome, OutcomeUnknown
from millstream.agents.tools.registry import ToolRegistry
from millstream.agents.tools.rules import NOT_MADE, Effect, NotMade, Reconcile, ToolRules

__all__ = [
    "NOT_MADE",
    "AnyTool",
    "CallNotMade",
    "Caller",
    "Effect",
    "NotMade",
    "Outcome",
    "OutcomeUnknown",
    "Reconcile",
    "ToolRegistry",
    "ToolRules",
    "built_in_tools",
    "calculate",
    "declared",
    "tool",
]
