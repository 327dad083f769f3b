from typing import Any

from django.db import migrations, models


# What came of a sign-in to Garmin, which stood where the health of the link stands.
SIGN_IN_ERRORS = (
    'account_locked', 'captcha_required', 'internal_error', 'invalid_credentials', 'invalid_mfa_code',
    'login_expired', 'login_interrupted', 'too_many_mfa_codes',
)


def tell_sign_ins_apart(apps: Any, schema_editor: Any) -> None:
    rows = apps.get_model('integrations', 'UsersIntegrations').objects.using(schema_editor.connection.alias)
    rows.filter(garminconnect_error__in=SIGN_IN_ERRORS).update(
        garminconnect_login_error=models.F('garminconnect_error'), garminconnect_error=''
    )
    # Without a link there was nothing else that could fail.
    rows.filter(garminconnect_oauth1=None, garminconnect_oauth2=None).exclude(garminconnect_error='').update(
        garminconnect_login_error=models.F('garminconnect_error'), garminconnect_error=''
    )
    # Copies of a link's own health, which have outlived the cure.
    for provider in ('strava', 'garminconnect'):
        rows.filter(**{f'{provider}_sync_error': 'relink_required'}).update(**{f'{provider}_sync_error': ''})


def tell_sign_ins_as_links(apps: Any, schema_editor: Any) -> None:
    rows = apps.get_model('integrations', 'UsersIntegrations').objects.using(schema_editor.connection.alias)
    rows.filter(garminconnect_error='').update(garminconnect_error=models.F('garminconnect_login_error'))


class Migration(migrations.Migration):

    dependencies = [
        ('integrations', '0005_claim_no_short_name_on_the_user'),
    ]

    operations = [
        migrations.AddField(
            model_name='usersintegrations',
            name='garminconnect_athlete_name',
            field=models.CharField(blank=True, db_default='', default='', max_length=255, verbose_name='athlete'),
        ),
        migrations.AddField(
            model_name='usersintegrations',
            name='garminconnect_limited_until',
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name='usersintegrations',
            name='garminconnect_login_error',
            field=models.CharField(blank=True, db_default='', default='', max_length=64, verbose_name='sign-in error'),
        ),
        migrations.AddField(
            model_name='usersintegrations',
            name='strava_athlete_name',
            field=models.CharField(blank=True, db_default='', default='', max_length=255, verbose_name='athlete'),
        ),
        migrations.AddField(
            model_name='usersintegrations',
            name='strava_limited_reads',
            field=models.BooleanField(db_default=False, default=False),
        ),
        migrations.AddField(
            model_name='usersintegrations',
            name='strava_spent_state',
            field=models.CharField(blank=True, db_default='', default='', max_length=64),
        ),
        migrations.AddField(
            model_name='usersintegrations',
            name='strava_exchanging_state',
            field=models.CharField(blank=True, db_default='', default='', max_length=64),
        ),
        migrations.AddField(
            model_name='usersintegrations',
            name='strava_exchanging_until',
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name='usersintegrations',
            name='strava_exchanging_error',
            field=models.CharField(blank=True, db_default='', default='', max_length=64),
        ),
        migrations.AlterField(
            model_name='usersintegrations',
            name='strava_scope',
            field=models.TextField(blank=True, default='', null=True),
        ),
        migrations.RunPython(tell_sign_ins_apart, tell_sign_ins_as_links),
    ]
