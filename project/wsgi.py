import os

from django.core.wsgi import get_wsgi_application

from .proxy import mended

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

application = mended(get_wsgi_application())
