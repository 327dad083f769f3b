from __future__ import annotations

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
    try:
        require_valid(form)
        attempt = login.begin_login(request.user.pk, **form.cleaned_data)
        try:
            tasks.enqueue(sign_in_to_garminconnect, request.user.pk, str(attempt))
        except TaskQueueUnavailable:
            # A worker may have it all the same, if only the queue's answer was lost.
            if login.withdraw_login(request.user.pk, attempt):
                raise
    except IntegrationsError as exc:
        return failed(request, exc, form)
    response = done(request, _("Signing in to Garmin …"), level=messages.INFO, status=202)
    if not wants_json(request):
        send_typed_ahead(request, response, form)
    return response


@athlete_view
@require_POST
@sensitive_post_parameters()
@at_most(30)
def mfa(request: AthleteRequest) -> HttpResponse:
    """Answer Garmin's question for a code; a worker does this, too."""
    form = GarminConnectMfaForm(request.POST)
    try:
        require_valid(form)
        attempt = login.submit_code(request.user.pk, form.cleaned_data["code"])
        try:
            tasks.enqueue(answer_garminconnect_mfa, request.user.pk, str(attempt))
        except TaskQueueUnavailable:
            if login.withdraw_code(request.user.pk, attempt):
                raise
    except IntegrationsError as exc:
        return failed(request, exc, form)
    return done(request, _("Checking the code with Garmin …"), level=messages.INFO, status=202)


@athlete_view
@require_POST
@at_most(30)
def cancel(request: AthleteRequest) -> HttpResponse:
    """Drop a sign-in under way."""
    try:
        login.cancel_login(request.user.pk)
    except NoLoginInProgress as exc:
        return not_needed(request, exc)
    except IntegrationsError as exc:
        return failed(request, exc)
    return done(request, _("The sign-in to Garmin was canceled."))
