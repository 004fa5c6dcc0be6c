"""The words of the library: values that everything above speaks of, and nothing that does anything."""

from bamboo_sessions.models.findings import Finding, Repair
from bamboo_sessions.models.hits import SearchHit, SearchPage
from bamboo_sessions.models.message import Message, Role, ToolCall
from bamboo_sessions.models.messages import Messages
from bamboo_sessions.models.metadata import Metadata
from bamboo_sessions.models.question import PendingQuestion
from bamboo_sessions.models.session import Session
from bamboo_sessions.models.state import Attempt, Base, Head, Kept, MergeRule, Origin, Part, State
from bamboo_sessions.models.summary import Conflict, SaveResult, SessionPage, SessionSummary

__all__ = [
    "Attempt", "Base", "Conflict", "Finding", "Head", "Kept", "MergeRule", "Message", "Messages", "Metadata", "Origin",
    "Part", "PendingQuestion", "Repair", "Role", "SaveResult", "SearchHit", "SearchPage", "Session", "SessionPage",
    "SessionSummary", "State", "ToolCall",
]
