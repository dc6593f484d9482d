"""Bounds on everything that could grow, each with its reason. Configuration may narrow or widen some of them."""

from __future__ import annotations

#: One provider request carries at most this many estimated input tokens, one answer at most that many output
#: tokens, unless configuration says otherwise (``model_provider.max_model_tokens_per_event``).
MAX_MODEL_TOKENS_PER_EVENT = 128_000
#: An answer may pass its output maximum by a tenth and this many tokens before its stream is cut.
OUTPUT_OVERRUN_TOKENS = 256
#: A client that names no maximum is assumed to want this much room when a model's window is checked.
FIT_OUTPUT_TOKENS = 512
#: Output reserved for an attempt whose client and model name no maximum.
DEFAULT_OUTPUT_CAP_TOKENS = 8_192

#: Rules about usage; each is asked for every request, and so many of them may have something to say to one.
POLICIES_MAX_COUNT = 256
POLICIES_APPLICABLE_MAX_COUNT = 32
#: Open attempts for which rules hold something; each of them stays in memory until it is settled.
OPEN_HOLDS_MAX_COUNT = 10_000
#: Prices that somebody writes down, and those of a whole list: it is one fact, which has a longest body.
OVERRIDES_MAX_COUNT = 1_024
PRICES_MAX_COUNT = 2_048
#: Figures that an alert gives.
ALERT_FACTS_MAX_COUNT = 16
#: Requests to pass a limit that wait for somebody; past this a run is refused without one.
APPROVALS_OPEN_MAX_COUNT = 1_000
#: Runs whose connections are kept while somebody decides.
HELD_RUNS_MAX_COUNT = 256

#: Events in one commit: one INSERT with this many rows stays below SQLite's 32,766 variables.
COMMIT_MAX_COUNT = 256
#: Events that may wait for the disk; past this the daemon answers 503 ``gateway_busy``.
PENDING_EVENTS_MAX_COUNT = 20_000
#: Longest stored body of one event; ours stay below 16 KiB, the rest is room for adopted configuration.
EVENT_BODY_MAX_BYTES = 1 << 20
#: A capsule, which is one run with what its decisions read: small enough to be sent with a report.
CAPSULE_MAX_BYTES = 5 << 20
#: How long a command key answers a repeat (24 h).
COMMAND_KEY_TTL_US = 24 * 3_600 * 1_000_000
#: Command keys in state; past this a request with an idempotency key is not taken, for none may be forgotten early.
COMMAND_KEYS_MAX_COUNT = 100_000
#: Answers kept for repeats of their requests: for how long, all together, and one of them.
REPEAT_TTL_US = 15 * 60 * 1_000_000
REPEATS_MAX_BYTES = 64 << 20
REPEAT_MAX_BYTES = 8 << 20

#: Bodies above this size are decoded, hashed and counted off the loop: in a thread, or, above the second one, by a
#: process, for a single step over them would keep every thread waiting.
OFF_LOOP_BYTES = 256 * 1024
APART_BYTES = 4 << 20
#: Nesting of a request's JSON.
JSON_DEPTH_MAX = 64
#: A provider's id, a slash, and a model's.
MODEL_NAME_MAX_CHARS = 512
#: Top-level members of a request; each costs a step of the scanner.
JSON_MEMBERS_MAX_COUNT = 1_000
#: Messages and tools of one request.
MESSAGES_MAX_COUNT = 10_000
TOOLS_MAX_COUNT = 1_024
#: Of the names of what was dropped, changed or lost, which others make up, so much is told.
NAME_TOLD_MAX_CHARS = 64
NAMES_TOLD_MAX_COUNT = 64
#: Items of one embeddings request.
EMBEDDING_INPUTS_MAX_COUNT = 2_048
#: What a script reads as a request, and says again: it is for tests, and does so on its own.
SCRIPTED_CALL_MAX_BYTES = 8 << 20
#: All headers of a request or a provider's answer together.
HEADERS_MAX_BYTES = 32 * 1024
UPSTREAM_HEADERS_MAX_BYTES = 64 * 1024
#: A provider's unary answer, one line of its stream, its error body.
UPSTREAM_BODY_MAX_BYTES = 64 << 20
SSE_LINE_MAX_BYTES = 8 << 20
UPSTREAM_ERROR_MAX_BYTES = 64 * 1024
#: A page of a provider's list of models.
MODEL_LIST_MAX_BYTES = 16 << 20
#: What is held back of a stream until its first content, so that a failure before it can be replaced.
PREAMBLE_MAX_BYTES = 256 * 1024
#: A client that takes nothing for this long is gone.
CLIENT_STALL_MS = 60_000
#: A request body must have arrived whole within this time.
BODY_READ_MS = 60_000

#: Length of a message of somebody else that is stored or shown; the most that may be configured of an error.
FOREIGN_MESSAGE_MAX_CHARS = 240
ERROR_TEXT_MAX_BYTES = 2_000
#: A configuration file.
CONFIG_FILE_MAX_BYTES = 1 << 20
#: Problems of a configuration that are shown; the rest is counted.
CONFIG_PROBLEMS_SHOWN_COUNT = 100
