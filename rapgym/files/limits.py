"""What a file from elsewhere may hold at most: every limit, once. Bytes unless the name says otherwise.

A limit is above what rapgym writes and users have, and so low that whatever lies below it is read, or
refused, in the memory of a small machine. It bounds what is really read, not what a file says of itself.
"""

KIB, MIB = 1 << 10, 1 << 20

# Any file that is unpacked as it is read.
PIECE = 1 * MIB  # unpacked at a time
PACKED = 64 * MIB
MEMBERS = 1000  # gzip files one behind the other, in one
XZ_MEMORY = 80 * MIB  # that unpacking may take; `xz -9` asks for 65

# JSON: in memory a value takes up to thirty times its characters.
JSON_VALUES = 1 << 20
HEADER = 8 * MIB  # the first line of a table, a series, results: ten times the longest published
SETTINGS = 16 * MIB  # that were tuned on this machine
PROFILE = 1 * MIB
CONFIG = 1 * MIB  # a model's config.json

# Numbers between commas: traces, and what a recorder left.
CSV = 256 * MIB  # unpacked
CSV_CELLS = 32_000_000  # ten million requests
CSV_ROW = 64 * KIB  # a line
CELL = 128  # characters of a name or time; of a number fewer, see `columns`
TOKENS = 1 << 31  # of a prompt or an output: keeps sums exact
DAMAGED_ROWS = 10_000  # of a recording, that are passed over

# Quality tables: forty times the largest that is shipped.
TABLE = 16 * MIB  # of the file, and unpacked
TABLE_ROWS = 1 << 17

# Series: a month in windows of 2 s with ten million single requests.
SERIES = 256 * MIB  # unpacked
SERIES_CELLS = 16_000_000
SERIES_ROW = 4 * MIB  # a line, whose single requests take about eight characters each

# Traffic of a serving world: twelve million requests, 16 bytes each, and a month of seconds.
TRAFFIC = 208 * MIB

# Results: as many rows as the largest that are published, and a few policies more; 2 GiB once read.
RESULTS = 704 * MIB  # unpacked
RESULT_ROWS = 1 << 22
RESULT_CELL = 1100  # characters: a key of 4096 blocks has 1024
RESULT_KEYS = 64 * MIB  # of different kept sets

STATISTICS = 16 * MIB  # of a workload's clients, unpacked
WEIGHTS = 32 * MIB  # of a trained policy, and of its arrays unpacked
WEIGHTS_ARRAYS = 256
OWN_TEXT = 64 * MIB  # to measure on, unpacked

# Submissions: what is sent to the leaderboard.
SUBMISSION = 8 * MIB  # packed
SUBMISSION_WHOLE = 32 * MIB  # unpacked, all files together
SUBMISSION_FILES = 100
SUBMISSION_HEADER = 256 * KIB
SUBMISSION_NAME = 120  # characters of a file's path

# Scenarios: a reader of TOML takes time with the square of the dots in a line.
SCENARIO = 64 * KIB
SCENARIO_LINE = 4096  # characters
SCENARIO_DOTS = 64  # in a line

# Logs are read line by line, however long they are.
AUDIT_LINE = 4 * MIB
AUDIT_CONTEXTS = 1024  # and gaps that are listed
AUDIT_FAULTS = 10_000  # then the rest is not read
# Request logs and memory logs of others: of any size where they are read line by line.
LOG = 1024 * MIB  # of a file that is replayed as it is; a larger one is made a trace first
ACCESS_LINE = 8 * MIB  # a prompt's token ids take seven each
ACCESS_JSON = 32 * MIB  # a JSON value that is no line of its own
ACCESS_WHOLE = 1 << 40  # unpacked: no limit but of lines and requests
ACCESS_SAMPLES = 8_000_000  # of memory
ACCESS_ENDLESS = 64 * MIB  # without a line's end: no log
ACCESS_REQUESTS = 8_000_000
ACCESS_OPEN = 1 << 19  # of vLLM's, whose lines are put together
ACCESS_NAME = 256  # characters of such a request's name
ACCESS_SILENT = 100_000  # lines in a row that tell of no request: no log of requests

# What passes through the recording proxy.
BODY = 256 * MIB  # of a request
ANSWER = 64 * MIB  # of an answer, or an event of a stream, that is read for its lengths
LENGTH_DIGITS = 12  # of a number that tells a length
TRAILERS = 100  # lines behind the last chunk
