"""reviewqueue: LLM outputs are routed, reviewed by people, called back and learned from.

`create_app()` puts settings, database, pages, API and commands together; nothing else does.
"""

from __future__ import annotations

import os

from flask import Flask
from flask_migrate import Migrate

from reviewqueue import models, seams  # noqa: F401  the tables must be known before the first query
from reviewqueue.config import Settings, use
from reviewqueue.db import attach, db, engine_options, let_go
from reviewqueue.schema import FOLDER


def create_app(settings: Settings | None = None) -> Flask:
    """The application, ready to serve; ConfigError when the settings or keys do not allow it."""
    from reviewqueue.web import init_app

    app = create_base(settings)
    init_app(app)
    return app


def create_base(settings: Settings | None = None) -> Flask:
    """Settings, keys and database without pages: what workers, the relay, commands and migrations need."""
    settings = settings or Settings.load(os.environ)
    use(settings)
    app = Flask(__name__, template_folder="../templates", static_folder="../static")
    app.config["REVIEWQUEUE"] = settings
    app.config["SECRET_KEY"] = settings.key("session")
    app.config["SQLALCHEMY_DATABASE_URI"] = settings.database_url
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = engine_options(settings.database_url)
    db.init_app(app)
    app.teardown_appcontext(let_go)
    Migrate(app, db, directory=str(FOLDER))
    with app.app_context():
        attach(db.engine)
        seams.install(settings, db.engine)
    return app
