"""Who may read: accounts, and the token endpoint.

The documents show the password grant only (BACE docs, Authentication). Everything else is the manner of the
OAuth2 server that fits them: bshaffer/oauth2-server-php behind filsh/yii2-oauth2-server.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sync.emulators.answers import Answer
from sync.emulators.bace.behaviour import Behaviour, Refresh
from sync.emulators.bace.samples import identifier
from sync.emulators.bace.yii import http_error, json_answer

_FRESH: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A user account, and the client that it uses.

    Attributes:
        client_id: Issued by the vendor.
        client_secret: Issued by the vendor.
        username: Normally an e-mail address.
        password: The password.
        forbidden: Endpoints (``"data-downsampled"``, ...) that this account may not use.
    """

    client_id: str = "lab-client"
    client_secret: str = field(default="lab-client-secret", repr=False)
    username: str = "lab@example.org"
    password: str = field(default="lab-password", repr=False)
    forbidden: frozenset[str] = frozenset()

    @property
    def id_user(self) -> str:
        """UUID of the user."""
        return identifier("user", self.username)


@dataclass(frozen=True, slots=True)
class _Token:
    account: Account
    expires_at: float


class _GrantError(Exception):
    def __init__(self, status: int, error: str, description: str) -> None:
        super().__init__(description)
        self.status, self.error, self.description = status, error, description


class Authority:
    """Accounts and their tokens."""

    def __init__(self, secret: bytes) -> None:
        self.accounts: dict[str, Account] = {}
        self._secret = secret
        self._access: dict[str, _Token] = {}
        self._refresh: dict[str, _Token] = {}
        self._issued = 0

    def caller(self, authorization: str, now: float) -> Account | None:
        """The account whose access token came along."""
        scheme, _, token = authorization.partition(" ")
        held = self._access.get(token) if scheme.lower() == "bearer" else None
        return held.account if held and now < held.expires_at else None

    def issue(self, account: Account, behaviour: Behaviour, now: float) -> dict[str, Any]:
        """New tokens, as the token endpoint answers them."""
        access, refresh = self._new(), self._new()
        self._access[access] = _Token(account, now + behaviour.access_lifetime)
        self._refresh[refresh] = _Token(account, now + behaviour.refresh_lifetime)
        return {
            "access_token": access,
            "expires_in": behaviour.access_lifetime,
            "token_type": "Bearer",
            "scope": None,
            "refresh_token": refresh,
        }

    def revoke_access(self) -> None:
        """No access token is good any more."""
        self._access.clear()

    def revoke_refresh(self) -> None:
        """No refresh token is good any more."""
        self._refresh.clear()

    def grant(self, method: str, form: Mapping[str, Any], behaviour: Behaviour, now: float) -> Answer:
        """The answer of the token endpoint."""
        try:
            return json_answer(self._granted(method, form, behaviour, now), headers=_FRESH)
        except _GrantError as refused:
            headers = dict(_FRESH) | ({"Allow": "POST"} if refused.status == 405 else {})
            if behaviour.oauth_errors:
                body = {"error": refused.error, "error_description": refused.description}
                return json_answer(body, status=refused.status, headers=headers)
            return http_error(
                refused.status, refused.description, with_type=behaviour.error_type, headers=headers
            )

    def _new(self) -> str:
        self._issued += 1
        return hashlib.sha256(b"token %d" % self._issued + self._secret).hexdigest()[:40]

    def _granted(
        self, method: str, form: Mapping[str, Any], behaviour: Behaviour, now: float
    ) -> dict[str, Any]:
        if method != "POST":
            raise _GrantError(
                405, "invalid_request", "The request method must be POST when requesting an access token"
            )
        kind = form.get("grant_type")
        if not kind:
            raise _GrantError(400, "invalid_request", "The grant type was not specified in the request")
        if kind not in ("password", "refresh_token") or (
            kind == "refresh_token" and behaviour.refresh is Refresh.REFUSED
        ):
            raise _GrantError(400, "unsupported_grant_type", f'Grant type "{kind}" not supported')
        client = form.get("client_id"), form.get("client_secret")
        if not client[0]:
            raise _GrantError(
                400, "invalid_client", "Client credentials were not found in the headers or body"
            )
        if all(client != (known.client_id, known.client_secret) for known in self.accounts.values()):
            raise _GrantError(400, "invalid_client", "The client credentials are invalid")
        if kind == "password":
            return self.issue(self._by_password(form), behaviour, now)
        return self._refreshed(form, behaviour, now)

    def _by_password(self, form: Mapping[str, Any]) -> Account:
        if not form.get("username") or not form.get("password"):
            raise _GrantError(
                400, "invalid_request", 'Missing parameters: "username" and "password" required'
            )
        account = self.accounts.get(str(form["username"]))
        if account is None or account.password != form["password"]:
            raise _GrantError(401, "invalid_grant", "Invalid username and password combination")
        return account

    def _refreshed(self, form: Mapping[str, Any], behaviour: Behaviour, now: float) -> dict[str, Any]:
        token = form.get("refresh_token")
        if not token:
            raise _GrantError(400, "invalid_request", 'Missing parameter: "refresh_token" is required')
        held = self._refresh.get(str(token))
        if held is None or held.account.client_id != form.get("client_id"):
            raise _GrantError(400, "invalid_grant", "Invalid refresh token")
        if now >= held.expires_at:
            raise _GrantError(400, "invalid_grant", "Refresh token has expired")
        answer = self.issue(held.account, behaviour, now)
        if behaviour.refresh is not Refresh.ROTATED:
            del self._refresh[answer.pop("refresh_token")]
        if behaviour.refresh in (Refresh.ROTATED, Refresh.SPENT):
            del self._refresh[str(token)]
        if behaviour.refresh is Refresh.SAME:
            answer["refresh_token"] = token
        return answer
