"""Descriptors for reflection."""

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import Default, DescriptorPool


class Symbols:
    """The default pool, which knows methods by their full names, too: grpcurl describes them by these."""

    def __init__(self) -> None:
        self._pool: DescriptorPool = Default()

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802 - what the servicer calls
        """Return the file, or raise KeyError."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            file: FileDescriptor = self._pool.FindMethodByName(symbol).containing_service.file
            return file

    def __getattr__(self, name: str) -> object:
        return getattr(self._pool, name)
