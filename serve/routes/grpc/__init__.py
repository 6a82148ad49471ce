"""The Open Inference Protocol over gRPC: one port, the engine and the rules of the HTTP routes.

Only a server with --grpc-port imports this. The messages' classes come from tritonclient, the health service's from
grpcio-health-checking.
"""

import os

# Read when the library is imported. It logs whatever strangers send, by which anybody could fill the log.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
