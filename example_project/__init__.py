"""An example of an application that uses celery-guardrails: a small shop, and a demo that plays an outage of it.

    make demo                                  no server needed: the broker is a SQLite file
    BROKER_URL=redis://localhost:6379/0 make demo
    BROKER_URL=amqp://localhost// make demo

`shop/` is the application, as you would write it. `demo.py` starts the real processes around it and plays the story.
"""
