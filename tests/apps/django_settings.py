"""The settings of the smallest Django project with a database."""

SECRET_KEY = "of no use to anybody"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
USE_TZ = True
