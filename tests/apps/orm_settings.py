"""Django's settings for `orm.py`: one PostgreSQL, from the environment."""

import os
from urllib.parse import urlsplit

_url = urlsplit(os.environ.get("ORM_DATABASE", "postgresql://nobody@127.0.0.1:1/none"))
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": _url.hostname,
        "PORT": _url.port,
        "USER": _url.username,
        "NAME": _url.path.lstrip("/"),
        "OPTIONS": {"connect_timeout": 2},
    }
}
INSTALLED_APPS: list[str] = []
SECRET_KEY = "of the tests"
USE_TZ = True
