"""The contract for the generators: services, messages and enums with their comments and options."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)

# Importing the options registers them, so that parsing the descriptors below keeps them.
from aiworkspace.v1 import options_pb2
from buf.validate import validate_pb2

ROOT = Path(__file__).resolve().parents[1]
PROTOS = ROOT / "protos"

# Field numbers in descriptor.proto, from which the paths of comments are built.
_FILE_PACKAGE, _FILE_MESSAGE, _FILE_ENUM, _FILE_SERVICE = 2, 4, 5, 6
_CHILD = 2  # DescriptorProto.field, EnumDescriptorProto.value and ServiceDescriptorProto.method alike

DEFAULT_REQUEST_BYTES = 64 << 10  # of methods that declare no max_request_bytes

Comments = dict[tuple[int, ...], str]


@dataclass(frozen=True)
class Field:
    """A field of a message."""

    proto: FieldDescriptorProto
    comment: str

    @property
    def name(self) -> str:
        return self.proto.name

    @property
    def type_name(self) -> str:
        """Return the full name of the field's message or enum, empty for scalars."""
        return self.proto.type_name.removeprefix(".")

    @property
    def repeated(self) -> bool:
        return self.proto.label == FieldDescriptorProto.LABEL_REPEATED

    @property
    def is_message(self) -> bool:
        return self.proto.type == FieldDescriptorProto.TYPE_MESSAGE

    @property
    def is_enum(self) -> bool:
        return self.proto.type == FieldDescriptorProto.TYPE_ENUM

    @property
    def rules(self) -> validate_pb2.FieldRules:
        return self.proto.options.Extensions[validate_pb2.field]

    @property
    def sensitive(self) -> bool:
        return self.proto.options.Extensions[options_pb2.sensitive]


@dataclass(frozen=True)
class Named:
    """A message or an enum; file is the name of the .proto without its folders and ending."""

    name: str
    full_name: str
    file: str
    comment: str


@dataclass(frozen=True)
class Message(Named):
    """A message."""

    fields: Sequence[Field]

    def field(self, name: str) -> Field | None:
        return next((field for field in self.fields if field.name == name), None)


@dataclass(frozen=True)
class EnumValue:
    """A value of an enum, with the options of rate-limit classes, permissions and roles."""

    name: str
    number: int
    comment: str
    calls_per_minute: int
    permission_name: str
    grants: Sequence[str]


@dataclass(frozen=True)
class Enum(Named):
    """An enum."""

    values: Sequence[EnumValue]


@dataclass(frozen=True)
class Method:
    """A method with its request and response."""

    proto: MethodDescriptorProto
    path: str
    comment: str
    request: Message
    response: Message

    @property
    def name(self) -> str:
        return self.proto.name

    @property
    def access(self) -> options_pb2.Access:
        return self.proto.options.Extensions[options_pb2.access]

    @property
    def rate_limit(self) -> options_pb2.RateLimitClass.ValueType:
        return self.proto.options.Extensions[options_pb2.rate_limit]

    @property
    def max_request_bytes(self) -> int:
        return self.proto.options.Extensions[options_pb2.max_request_bytes] or DEFAULT_REQUEST_BYTES

    @property
    def audited(self) -> bool:
        return self.proto.options.Extensions[options_pb2.audited]

    @property
    def streams_request(self) -> bool:
        return self.proto.client_streaming

    @property
    def streams_response(self) -> bool:
        return self.proto.server_streaming

    @property
    def unary(self) -> bool:
        return not (self.streams_request or self.streams_response)


@dataclass(frozen=True)
class Service:
    """A service. `file` is as in Named, `file_comment` is the comment at the top of the .proto."""

    name: str
    file: str
    comment: str
    file_comment: str
    methods: Sequence[Method]


@dataclass(frozen=True)
class Contract:
    """Everything the .proto files declare, in their order."""

    services: Sequence[Service]
    messages: dict[str, Message]
    enums: dict[str, Enum]

    @property
    def named(self) -> dict[str, Named]:
        """Return the types by full name."""
        return {**self.messages, **self.enums}


def load() -> Contract:
    """Read protos/. Raises CalledProcessError if protoc refuses it."""
    files = [file for file in _descriptors().file if file.package.startswith("aiworkspace.")]
    messages = {message.full_name: message for file in files for message in _messages(file)}
    enums = {enum.full_name: enum for file in files for enum in _enums(file)}
    services = [service for file in files for service in _services(file, messages)]
    return Contract(services, messages, enums)


def _descriptors() -> FileDescriptorSet:
    sources = sorted(path.relative_to(PROTOS).as_posix() for path in PROTOS.glob("aiworkspace/**/*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "contract.binpb"
        protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", f"-I{PROTOS / 'vendor'}"]
        subprocess.run([*protoc, "--include_source_info", f"--descriptor_set_out={image}", *sources], check=True)
        return FileDescriptorSet.FromString(image.read_bytes())


def _comments(file: FileDescriptorProto) -> Comments:
    locations = file.source_code_info.location
    return {tuple(at.path): _unindented(at.leading_comments) for at in locations if at.leading_comments}


def _unindented(comment: str) -> str:
    return "\n".join(line.removeprefix(" ").rstrip() for line in comment.splitlines()).strip()


def _file_name(file: FileDescriptorProto) -> str:
    return Path(file.name).stem


def _messages(file: FileDescriptorProto) -> Iterator[Message]:
    comments = _comments(file)
    for index, proto in enumerate(file.message_type):
        path = (_FILE_MESSAGE, index)
        fields = _fields(proto, comments, path)
        yield Message(
            proto.name, f"{file.package}.{proto.name}", _file_name(file), comments.get(path, ""), list(fields)
        )


def _fields(proto: DescriptorProto, comments: Comments, path: tuple[int, ...]) -> Iterator[Field]:
    for index, field in enumerate(proto.field):
        yield Field(field, comments.get((*path, _CHILD, index), ""))


def _enums(file: FileDescriptorProto) -> Iterator[Enum]:
    comments = _comments(file)
    for index, proto in enumerate(file.enum_type):
        path = (_FILE_ENUM, index)
        values = list(_values(proto, comments, path))
        yield Enum(proto.name, f"{file.package}.{proto.name}", _file_name(file), comments.get(path, ""), values)


def _values(proto: EnumDescriptorProto, comments: Comments, path: tuple[int, ...]) -> Iterator[EnumValue]:
    for index, value in enumerate(proto.value):
        said = value.options.Extensions
        yield EnumValue(
            name=value.name,
            number=value.number,
            comment=comments.get((*path, _CHILD, index), ""),
            calls_per_minute=said[options_pb2.calls_per_minute],
            permission_name=said[options_pb2.permission_name],
            grants=list(said[options_pb2.grants]),
        )


def _services(file: FileDescriptorProto, messages: dict[str, Message]) -> Iterator[Service]:
    comments = _comments(file)
    for index, proto in enumerate(file.service):
        path = (_FILE_SERVICE, index)
        methods = list(_methods(file.package, proto, comments, path, messages))
        about_file = comments.get((_FILE_PACKAGE,), "")
        yield Service(proto.name, _file_name(file), comments.get(path, ""), about_file, methods)


def _methods(
    package: str,
    service: ServiceDescriptorProto,
    comments: Comments,
    path: tuple[int, ...],
    messages: dict[str, Message],
) -> Iterator[Method]:
    for index, method in enumerate(service.method):
        yield Method(
            proto=method,
            path=f"/{package}.{service.name}/{method.name}",
            comment=comments.get((*path, _CHILD, index), ""),
            request=messages[method.input_type.removeprefix(".")],
            response=messages[method.output_type.removeprefix(".")],
        )
