"""A limit on everything, in one place. Each value says what it protects."""

from typing import Final

# Wire
BODY_BYTES_MAX: Final = 16 * 1024 * 1024  # a 1M-token prompt is about 5 MB; images travel as base64
MANAGEMENT_BODY_BYTES_MAX: Final = 1024 * 1024
PRICE_LIST_BYTES_MAX: Final = 16 * 1024 * 1024  # the shipped list has 3 MB
WEBHOOK_BYTES_MAX: Final = 1024 * 1024  # Stripe's events have some kilobytes
ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024  # a non-streamed upstream answer held in memory
EMBEDDINGS_BYTES_MAX: Final = 256 * 1024 * 1024  # one of embeddings: 2,048 texts of 4,096 numbers are 180 MB
SSE_FRAME_BYTES_MAX: Final = 8 * 1024 * 1024  # one event of a stream; beyond it the upstream is broken
IMAGE_EVENT_BYTES_MAX: Final = 32 * 1024 * 1024  # one event that carries an image: 3840 x 2160 as PNG is 20 MB, in base64
FILE_BYTES_MAX: Final = 25 * 1024 * 1024  # of one file in a form, as OpenAI takes them
FORM_BYTES_MAX: Final = FILE_BYTES_MAX + 1024 * 1024  # of a whole form: what it says besides is small
FORM_PARTS_MAX: Final = 64
FORM_FIELD_BYTES_MAX: Final = 256 * 1024  # of one field that is no file: a prompt of 32,000 characters
FORM_HEADER_BYTES_MAX: Final = 4096  # of one line of a part's head
IMAGES_MAX: Final = 10  # of one request, as OpenAI has it
IMAGES_BYTES_MAX: Final = IMAGES_MAX * IMAGE_EVENT_BYTES_MAX  # a whole answer of so many, each as large as it may be in a stream
IMAGE_FILES_MAX: Final = 16  # that one edit may look at
SPEECH_CHARS_MAX: Final = 100_000  # of one text to speak; providers take 4,096 to 50,000
RANKED_DOCUMENTS_MAX: Final = 10_000
JSON_DEPTH_MAX: Final = 128
JSON_NODES_MAX: Final = 200_000  # objects and lists of one body: each takes some hundred bytes once parsed
LARGE_BODY_BYTES: Final = 64 * 1024  # smaller ones are bounded by IN_FLIGHT_MAX alone
LARGE_BODIES_BYTES_MAX: Final = 256 * 1024 * 1024  # of bodies above that size, in one process at once
TAGS_MAX: Final = 16
TAG_CHARS_MAX: Final = 128
MESSAGES_MAX: Final = 10_000
CHOICES_MAX: Final = 128
TOOL_CALLS: Final = 10  # of tools that a provider runs itself, of one request that says nothing
TOOL_CALLS_MAX: Final = 1000  # that one may ask for

# Time
CONNECT_TIMEOUT_S: Final = 5.0
FIRST_BYTE_TIMEOUT_S: Final = 300.0
CHUNK_TIMEOUT_S: Final = 120.0  # silence in mid-stream
STREAM_SECONDS_MAX: Final = 3600.0
HOLD_TTL_S: Final = 60  # a hold whose gateway gives no sign of life for so long is ended by the sweeper
DRAIN_ON_SHUTDOWN_S: Final = 30.0
SETTLE_ON_SHUTDOWN_S: Final = 10.0  # how long a process that ends waits for a hot store that does not take its settlements
DRAIN_FOR_THE_LEFT_S: Final = 120.0  # how long a stream is read on, and billed, that nobody reads any more
ATTEMPTS_MAX: Final = 20  # of one request at providers, whatever the configuration allows: the operator pays for each
RESULT_TTL_S: Final = 600  # how long Redis remembers the result of a finished hold
KEPT_S: Final = 540  # how long a settled request may be settled again after a loss: its result must be there if it was not lost
KEPT_LEAST_S: Final = 5.0  # a store that comes back older than what it answered is not older by more
KEPT_MAX: Final = 50_000  # settled requests that one web process keeps until the books have them
KEPT_BYTES_MAX: Final = 128 * 1024 * 1024
KEPT_LOOK_S: Final = 2.0  # between two looks at what the books have of them: how late a loss without a reconnect is seen
POSTED_S: Final = 900  # a rebuilt wallet remembers the requests of so long: longer than anything is kept, by clocks that differ
REBUILD_AFTER_S: Final = 5.0  # a lost wallet waits so long for what live gateways have kept, before a new request rebuilds it
REDIS_TIMEOUT_S: Final = 2.0
REDIS_ATTEMPTS: Final = 3

# Connections (gateway/server): what one peer can make a web process keep or wait for
CONNECTIONS_MAX: Final = 20_000  # open at once in one web process
HEAD_BYTES_MAX: Final = 64 * 1024  # request line and headers; also what a chunked body has besides its data
HEADERS_MAX: Final = 100
URL_BYTES_MAX: Final = 8 * 1024
PIPELINED_MAX: Final = 100  # requests that wait on one connection for the answer before them
HEAD_TIMEOUT_S: Final = 10.0
BODY_IDLE_TIMEOUT_S: Final = 30.0
BODY_TIMEOUT_S: Final = 120.0
WRITE_TIMEOUT_S: Final = 60.0  # a peer that takes no byte of what waits for it
LINGER_S: Final = 2.0  # how long a refused peer may go on sending, so that it can read why
KEEP_ALIVE_S: Final = 75  # an idle connection between two requests

# Numbers a caller may name
OUTPUT_TOKENS_MAX: Final = 10_000_000
RATE_LIMIT_MAX: Final = 1_000_000_000
KEY_NAME_CHARS_MAX: Final = 200
REASON_CHARS_MAX: Final = 500

# Queues and pages
IN_FLIGHT_MAX: Final = 10_000  # requests one web process works on at once
PAGE_ROWS_MAX: Final = 200
DRAIN_BATCH: Final = 500
APP_ENGINES_MAX: Final = 64  # app databases that one process keeps open
KEY_CACHE_MAX: Final = 50_000
KEY_CACHE_TTL_S: Final = 30.0  # bounds a missed invalidation, from when nothing was known to have changed
KEY_CACHE_TTL_MAX_S: Final = 600.0  # however often nothing had: bounds what was changed by hand in the database
UNKNOWN_KEY_TTL_S: Final = 5.0
END_USER_TOKEN_SECONDS_MAX: Final = 24 * 3600

# Identity
CREDENTIAL_CHARS_MAX: Final = 8192  # longer than any key or token of ours: not worth hashing
KEY_STALE_MAX_S: Final = 900.0  # how long a key that was known stays usable while the platform database is down
KEY_OVERLAP_SECONDS_MAX: Final = 30 * 24 * 3600  # how long a rotated key may go on
MODELS_PER_KEY_MAX: Final = 200
MODEL_CHARS_MAX: Final = 200
CORS_ORIGINS_MAX: Final = 50
TRIAL_DAYS_MAX: Final = 3650
ANSWER_TTL_S_MAX: Final = 30 * 24 * 3600
IDEMPOTENCY_KEY_CHARS_MAX: Final = 255

# Management API: requests of one end user a minute, with all its tokens; and of those, such as start something at Stripe
END_USER_RPM: Final = 120
END_USER_SALES_RPM: Final = 20
APP_SALES_RPM: Final = 600  # of an app's server keys, for all its end users: Stripe takes 1,500 a minute of one kind from all
CREATOR_SALES_RPM: Final = 120  # of a creator's management keys

# Billing
STATEMENT_MOVEMENTS_MAX: Final = 2_000_000  # of a balance at Stripe, asked for a hundred at a time for one statement
STATEMENT_LINES_MAX: Final = 50_000  # of one answer; the CSV streams all of them, and a list has them page by page
STATEMENT_UNEXPLAINED_MAX: Final = 1000  # of a currency of one answer
REPORT_MONTHS_MAX: Final = 36
OPEN_PURCHASES_MAX: Final = 50  # of one buyer, of those that were opened within a day

# Hot balances
EVENT_BACKLOG_MAX: Final = 1_000_000  # undrained usage events of one shard; beyond it reserving fails closed
EVENT_BLOCK_S_MAX: Final = 5.0  # longest blocking read of the event streams: bounds how late a dead connection is seen
CREDIT_MARKER_TTL_S: Final = 40 * 24 * 3600  # how long the hot store remembers that a credit was applied
SWEEP_BATCH: Final = 100  # expired holds ended per round trip
