"""The AI Workspace server."""

import os

# gRPC's handlers of fork, which it reads this for when it is imported, crash child processes that start while calls are
# in progress: the parser's, and those that split and embed texts.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
