"""AuthService: proto in and out, one transaction per call."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from uuid import UUID

from aiworkspace.v1 import auth_pb2 as pb
from aiworkspace.v1.auth_pb2_grpc import AuthServiceServicer

from ..kit.context import caller_id, caller_session_id, current
from ..kit.errors import InvalidArgument, Unauthenticated
from ..kit.idempotency import IdempotencyStore
from ..kit.ids import new_id, parse_id
from ..kit.masks import changes
from ..kit.pages import Pages
from ..kit.postgres import Database, WriteSession
from ..kit.timestamps import timestamp
from ..setting_types import Registration
from . import cookies, service, store
from .cookies import Cookie
from .credentials import Credentials
from .jobs import Notice, Notices
from .models import Session, User
from .service import Device, Pair, SessionEnded
from .tokens import Claims, TokenExpired

Answer = TypeVar("Answer", pb.RegisterResponse, pb.LoginResponse)

# Called with a new account, in the transaction that creates it.
Registered = Callable[[WriteSession, User], Awaitable[None]]
# Called with the account of a new password, in the transaction that sets it.
PasswordChanged = Callable[[WriteSession, UUID], Awaitable[None]]


class AuthServicer(AuthServiceServicer):
    def __init__(
        self,
        db: Database,
        credentials: Credentials,
        registration: Registration,
        registered: Registered,
        password_changed: PasswordChanged,
        notices: Notices,
        pages: Pages,
        idempotency: IdempotencyStore,
    ) -> None:
        self._db = db
        self._access_tokens = credentials.access_tokens
        self._csrf_tokens = credentials.csrf_tokens
        self._sessions = credentials.sessions
        self._authenticator = credentials.authenticator
        self._failures = credentials.failures
        self._passwords = credentials.passwords
        self._devices = credentials.devices
        self._throttle = credentials.throttle
        self._former_addresses = credentials.former_addresses
        self._registration = registration
        self._registered = registered
        self._password_changed = password_changed
        self._notices = notices
        self._pages = pages
        self._idempotency = idempotency

    async def Register(self, request: pb.RegisterRequest, context: Any) -> pb.RegisterResponse:
        async with self._db.read() as tx:
            await service.check_may_register(tx, self._registration, request.email)
            earlier = await store.find_user_by_email(tx, request.email)  # saves hashing the password
        made = None if earlier else await self._register(request)
        user, pair = made or await self._register_again(request)
        return await self._welcome(pb.RegisterResponse, user, pair, None, by_cookie=request.use_cookies)

    async def _register(self, request: pb.RegisterRequest) -> tuple[User, Pair] | None:
        """Create an account and its first session. Return None if a concurrent call has created it."""
        user_id, known = new_id(), (request.email, request.display_name)
        values = {
            "id": user_id,
            "email": request.email,
            "display_name": request.display_name,
            "password_hash": await self._passwords.hash_new(request.password, "password", known),
            "request_id": UUID(request.request_id) if request.request_id else None,
        }
        async with self._db.write(user_id=user_id) as tx:
            count = await self._former_addresses.created_org_count(tx, request.email)
            user = await service.add_user(tx, {**values, "created_org_count": count})
            if user is None:
                return None
            pair = self._start(tx, user, _device(request))
            await self._registered(tx, user)
            return user, pair

    async def _register_again(self, request: pb.RegisterRequest) -> tuple[User, Pair]:
        """Sign in to the account that an earlier call with the same request_id and password created.

        Calls that fail here are not in the account's audit log: strangers could fill it.
        """
        user = await self._find(request.email)
        if user is None or user.request_id is None or str(user.request_id) != request.request_id.lower():
            raise service.address_taken()
        current.get().subject = user.id
        try:
            await self._check_password(request, user, None)
        except Unauthenticated:
            raise service.address_taken() from None
        return user, await self._sign_in(user, _device(request), known=True)

    async def Login(self, request: pb.LoginRequest, context: Any) -> pb.LoginResponse:
        found = await self._find(request.email)
        current.get().subject = found.id if found else None  # its audit log has the call, refused or not
        device_token = request.device_token or cookies.device_token(current.get())
        device_id = self._devices.check(device_token, found.id) if found else None
        user = await self._check_password(request, found, device_id)
        pair = await self._sign_in(user, _device(request), known=device_id is not None)
        return await self._welcome(pb.LoginResponse, user, pair, device_id, by_cookie=request.use_cookies)

    async def _find(self, email: str) -> User | None:
        async with self._db.read() as tx:
            return await store.find_user_by_email(tx, email)

    async def _check_password(
        self, request: pb.RegisterRequest | pb.LoginRequest, user: User | None, device_id: UUID | None
    ) -> User:
        """Check the password and return the account. No connection is held while hashing."""
        known, whose = False, self._throttle.of_account(request.email)
        if user and device_id:
            known = await self._throttle.goes_first(device_id)
            whose = self._throttle.of_device(device_id, user.password_hash or "")
        async with self._throttle.attempt(whose):
            password_hash = user.password_hash if user else None
            matches = await self._passwords.matches(request.password, password_hash, known=known)
            if user is None or not matches:
                raise service.wrong_password()
        return user

    async def _sign_in(self, checked: User, device: Device, *, known: bool) -> Pair:
        async with self._db.write(user_id=checked.id) as tx:
            user = await service.lock_checked(tx, checked)
            if not known and not await store.is_familiar(tx, user.id, device.address, device.user_agent):
                await self._notices.notify(tx, user.id, Notice.NEW_DEVICE)
            return self._start(tx, user, device)

    def _start(self, tx: WriteSession, user: User, device: Device) -> Pair:
        pair, call = self._sessions.start(tx, user, device), current.get()
        call.subject, call.answer = user.id, _pair_to_proto(pair)
        return pair

    async def _welcome(
        self, answer: type[Answer], user: User, pair: Pair, device_id: UUID | None, *, by_cookie: bool
    ) -> Answer:
        """Return the response to a sign-in. If the request asks for cookies, secrets are sent as cookies instead."""
        device_token, tokens = self._devices.issue(user.id, device_id), _pair_to_proto(pair)
        if by_cookie:
            tokens = await self._send_cookies(pair, cookies.device_cookie(device_token))
            device_token = ""
        return answer(user=user_to_proto(user), tokens=tokens, device_token=device_token)

    async def _send_cookies(self, pair: Pair, *others: Cookie) -> pb.TokenPair:
        """Send the tokens as cookies. Return the pair without the tokens."""
        sent = cookies.access_cookie(pair.access), cookies.refresh_cookie(pair.refresh), *others
        await cookies.send(current.get(), sent)
        tokens = _pair_to_proto(pair)
        tokens.access_token = tokens.refresh_token = ""
        tokens.csrf_token = self._csrf_tokens.of(pair.session_id)
        return tokens

    async def Refresh(self, request: pb.RefreshRequest, context: Any) -> pb.RefreshResponse:
        call = current.get()
        cookie = cookies.tokens(call).get(cookies.REFRESH)
        if bool(request.refresh_token) == (cookie is not None):
            raise InvalidArgument({"refresh_token": "must be set here or sent as a cookie, not both"})
        claims = await self._read_refresh_token(request.refresh_token if cookie is None else cookie)
        if cookie is not None:
            self._csrf_tokens.check(call, claims.session_id)
        pair = await self._refresh(claims, call.address)
        return pb.RefreshResponse(tokens=_pair_to_proto(pair) if cookie is None else await self._send_cookies(pair))

    async def _read_refresh_token(self, token: str) -> Claims:
        """Return the claims. Raises SessionEnded, without a query, if token or session are known to have ended."""
        try:
            claims = await self._failures.checked(current.get().address, lambda: self._sessions.check(token))
        except TokenExpired:
            raise SessionEnded from None
        if self._failures.has_ended(claims.session_id):
            raise SessionEnded
        return claims

    async def _refresh(self, claims: Claims, address: str) -> Pair:
        try:
            async with self._db.write() as tx:
                user_id, pair = await self._sessions.refresh(tx, claims, address)
                if pair is None:
                    await self._notices.notify(tx, user_id, Notice.TOKEN_REUSED)
            if pair is None:  # raised outside of the transaction, so that the end of the session is committed
                self._authenticator.forget(user_id)
                raise SessionEnded
        except SessionEnded:
            self._failures.note_end(claims.session_id)
            raise
        return pair

    async def Logout(self, request: pb.LogoutRequest, context: Any) -> pb.LogoutResponse:
        call = current.get()
        async with self._db.write(user_id=caller_id()) as tx:
            await service.revoke_session(tx, caller_id(), caller_session_id())
        self._authenticator.forget(caller_id())
        if cookies.tokens(call):
            await cookies.send(call, cookies.SIGNED_OUT)
        return pb.LogoutResponse()

    async def GetMe(self, request: pb.GetMeRequest, context: Any) -> pb.GetMeResponse:
        async with self._db.read() as tx:
            user = await store.find_user(tx, caller_id())
        if user is None:
            raise Unauthenticated
        return pb.GetMeResponse(user=user_to_proto(user))

    async def UpdateMe(self, request: pb.UpdateMeRequest, context: Any) -> pb.UpdateMeResponse:
        values = changes(request.user, request.update_mask, {"display_name"})
        async with self._db.write(user_id=caller_id()) as tx:
            user = await service.update_user(tx, caller_id(), request.user.etag, values)
        return pb.UpdateMeResponse(user=user_to_proto(user))

    async def ChangePassword(self, request: pb.ChangePasswordRequest, context: Any) -> pb.ChangePasswordResponse:
        session_id = caller_session_id()
        async with self._db.read() as tx:
            user = await store.find_user(tx, caller_id())
        if user is None:
            raise Unauthenticated
        whose = self._throttle.of_session(session_id)
        known = await self._throttle.goes_first(session_id)
        async with self._throttle.attempt(whose):
            if not await self._passwords.matches(request.current_password, user.password_hash, known=known):
                return await self._changed_before(request)
        inputs = user.email or "", user.display_name
        new_hash = await self._passwords.hash_new(request.new_password, "new_password", inputs, known=known)
        async with self._db.write(user_id=user.id) as tx:
            if reply := await self._idempotency.find(tx, request, pb.ChangePasswordResponse):
                return reply
            await service.set_password(tx, user, session_id, new_hash)
            await self._password_changed(tx, user.id)
            await self._notices.notify(tx, user.id, Notice.PASSWORD_CHANGED)
            reply = await self._idempotency.save(tx, request, pb.ChangePasswordResponse())
        self._authenticator.forget(user.id)
        return reply

    async def _changed_before(self, request: pb.ChangePasswordRequest) -> pb.ChangePasswordResponse:
        """Return the response to an earlier call with the same request_id, which has changed the current password."""
        async with self._db.write(user_id=caller_id()) as tx:
            if reply := await self._idempotency.find(tx, request, pb.ChangePasswordResponse):
                return reply
            raise service.wrong_password()

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Any) -> pb.ListSessionsResponse:
        async with self._db.read() as tx:
            rows = await store.list_sessions(tx, caller_id(), self._pages.after_id(request), self._pages.limit(request))
        rows, more = self._pages.cut(request, rows, lambda session: [session.id])
        return pb.ListSessionsResponse(sessions=map(_session_to_proto, rows), next_page_token=more)

    async def RevokeSession(self, request: pb.RevokeSessionRequest, context: Any) -> pb.RevokeSessionResponse:
        session_id = parse_id(request.session_id, "session_id")
        async with self._db.write(user_id=caller_id()) as tx:
            await service.revoke_session(tx, caller_id(), session_id)
        self._authenticator.forget(caller_id())
        return pb.RevokeSessionResponse()

    async def RevokeAllSessions(
        self, request: pb.RevokeAllSessionsRequest, context: Any
    ) -> pb.RevokeAllSessionsResponse:
        kept = caller_session_id() if request.keep_current else None
        async with self._db.write(user_id=caller_id()) as tx:
            count = await service.revoke_all_sessions(tx, caller_id(), kept)
        self._authenticator.forget(caller_id())
        return pb.RevokeAllSessionsResponse(revoked_count=count)

    async def GetJwks(self, request: pb.GetJwksRequest, context: Any) -> pb.GetJwksResponse:
        keys = self._access_tokens.keys.values()
        return pb.GetJwksResponse(keys=[pb.Jwk(**key.jwk) for key in keys if key.jwk])


def _device(request: pb.RegisterRequest | pb.LoginRequest) -> Device:
    call = current.get()
    return Device(request.device_name, call.address, call.user_agent)


def user_to_proto(user: User) -> pb.User:
    return pb.User(
        user_id=str(user.id),
        email=user.email or "",
        display_name=user.display_name,
        create_time=timestamp(user.create_time),
        update_time=timestamp(user.update_time),
        etag=str(user.version),
        email_verified=user.verify_time is not None,
    )


def _session_to_proto(session: Session) -> pb.Session:
    return pb.Session(
        session_id=str(session.id),
        device_name=session.device_name,
        address=session.address,
        user_agent=session.user_agent,
        create_time=timestamp(session.create_time),
        last_use_time=timestamp(session.last_use_time),
        expire_time=timestamp(session.expire_time),
        current=session.id == caller_session_id(),
    )


def _pair_to_proto(pair: Pair) -> pb.TokenPair:
    return pb.TokenPair(
        access_token=pair.access.token,
        access_expire_time=timestamp(pair.access.expire_time),
        refresh_token=pair.refresh.token,
        refresh_expire_time=timestamp(pair.refresh.expire_time),
        session_id=str(pair.session_id),
    )
