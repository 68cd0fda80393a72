"""Reflection, through which clients like grpcurl read the contract from the server."""

from collections.abc import Collection
from typing import Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import Default, DescriptorPool
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2 import FileDescriptorResponse, ServerReflectionResponse


class Symbols:
    """The default pool, which also finds methods by full name, as grpcurl describe needs."""

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


_Servicer: Any = reflection.aio.ReflectionServicer  # untyped


class Reflection(_Servicer):  # type: ignore[misc]
    """Caches the response about each file: building one of 80 KB takes a millisecond, and anybody may call."""

    def __init__(self, service_names: Collection[str]) -> None:
        super().__init__(service_names, Symbols())
        self._files: dict[str, FileDescriptorResponse] = {}

    def _file_by_filename(self, request: Any, filename: str) -> Any:
        return self._answer(request, self._pool.FindFileByName, filename, super()._file_by_filename)

    def _file_containing_symbol(self, request: Any, symbol: str) -> Any:
        return self._answer(request, self._pool.FindFileContainingSymbol, symbol, super()._file_containing_symbol)

    def _answer(self, request: Any, find: Any, name: str, make: Any) -> Any:
        try:
            file = find(name).name
        except KeyError:
            return make(request, name)
        if file not in self._files:
            self._files[file] = make(request, name).file_descriptor_response
        return ServerReflectionResponse(file_descriptor_response=self._files[file], original_request=request)
