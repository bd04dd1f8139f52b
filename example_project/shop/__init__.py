"""A small shop: it mails its new customers, tells a partner of each order, and imports orders from a marketplace.

    settings.py        the Celery configuration, with the `guardrails` dict
    celery.py          the Celery application
    tasks.py           the tasks and their policies: start reading here
    storefront.py      publishes a day's work:      python -m example_project.shop.storefront
    mail_server.py     the mail provider:           python -m example_project.shop.mail_server DIRECTORY
    partner_server.py  who receives the webhooks:   python -m example_project.shop.partner_server

Run it: `celery -A example_project.shop worker` and, beside it, `celery -A example_project.shop guardian`. The sales
report needs `celery -A example_project.shop beat`, and `celery -A example_project.shop worker -Q shop.reports`.
"""
