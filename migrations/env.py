"""What alembic runs, over the connection and the transaction that app.core.migrating opened."""

from alembic import context

from app.core.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite cannot alter a table: a batch makes it anew
    transactional_ddl=True,  # a migration happens whole or not at all, on SQLite too
)
with context.begin_transaction():
    context.run_migrations()
