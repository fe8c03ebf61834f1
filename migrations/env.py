"""What alembic runs: the revisions, and then the code, in one transaction.

`dlqctl migrate` is the way in; it checks first, retries, and passes its connection here. In offline
mode (`dlqctl migrate --sql`) everything is printed instead.
"""

from alembic import context

from dlqctl import definitions

config = context.config

if context.is_offline_mode():
    context.configure(dialect_name="postgresql", version_table_schema="dlq", output_buffer=config.output_buffer)
    with context.begin_transaction():
        emit = context.get_context().impl.static_output
        emit(definitions.PREPARE)
        context.run_migrations()
        for sql in definitions.everything():
            emit(sql)
        for sql in config.attributes["afterwards"]:
            emit(sql)
else:
    connection = config.attributes["connection"]
    raw = connection.connection.driver_connection
    raw.execute(definitions.PREPARE)
    context.configure(connection=connection, version_table_schema="dlq")
    with context.begin_transaction():
        context.run_migrations()
    config.attributes["changed"] = definitions.lay_down(raw)
