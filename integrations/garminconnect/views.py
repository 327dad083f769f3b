from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST

from .. import tasks
from ..exceptions import IntegrationsError, NoLoginInProgress, TaskQueueUnavailable
from ..web import (
    AthleteRequest,
    at_most,
    athlete_view,
    done,
    failed,
    not_needed,
    require_valid,
    send_typed_ahead,
    wants_json,
)
from . import login
from .forms import GarminConnectLoginForm, GarminConnectMfaForm
from .tasks import answer_garminconnect_mfa, sign_in_to_garminconnect


@athlete_view
@require_POST
@sensitive_post_parameters()
@at_most(30)
def connect(request: AthleteRequest) -> HttpResponse:
    """Start a sign-in and answer at once: a worker does it, as Garmin may take long."""
    form = GarminConnectLoginForm(request.POST)
    work = login.begin_login, sign_in_to_garminconnect, login.withdraw_login
    return _hand_over(request, form, *work, _("Signing in to Garmin …"))


@athlete_view
@require_POST
@sensitive_post_parameters()
@at_most(30)
def mfa(request: AthleteRequest) -> HttpResponse:
    """Answer Garmin's question for a code; a worker does this, too."""
    form = GarminConnectMfaForm(request.POST)
    work = login.submit_code, answer_garminconnect_mfa, login.withdraw_code
    return _hand_over(request, form, *work, _("Checking the code with Garmin …"))


def _hand_over(
    request: AthleteRequest,
    form: Any,
    begin: Callable[..., Any],
    task: Any,
    withdraw: Callable[..., bool],
    words: str,
) -> HttpResponse:
    """Hand what was typed to a worker."""
    try:
        require_valid(form)
        attempt = begin(request.user.pk, **form.cleaned_data)
        try:
            tasks.enqueue(task, request.user.pk, str(attempt))
        except TaskQueueUnavailable:
            # A worker may have it all the same, if only the queue's answer was lost.
            if withdraw(request.user.pk, attempt):
                raise
    except IntegrationsError as exc:
        return failed(request, exc, form)
    response = done(request, words, level=messages.INFO, status=202)
    if hasattr(form, "comes_back") and not wants_json(request):
        send_typed_ahead(request, response, form)
    return response


@athlete_view
@require_POST
@at_most(30)
def cancel(request: AthleteRequest) -> HttpResponse:
    """Drop a sign-in under way."""
    try:
        login.cancel_login(request.user.pk)
    except NoLoginInProgress as exc:
        return not_needed(request, exc)
    return done(request, _("The sign-in to Garmin was canceled."))
