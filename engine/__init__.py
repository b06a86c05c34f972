"""The engine serves: release format, index, retrieval, gRPC service and server, client, command line."""
