"""What alembic runs: the revisions, as dlq_owner, in a transaction that somebody else begins and commits.

`dlqctl migrate` is the way in; it checks first, passes its connection here, and lays down the code
afterwards. In offline mode (`dlqctl migrate --sql`) everything is printed instead.
"""

from alembic import context

from dlqctl import definitions

config = context.config

if context.is_offline_mode():
    context.configure(dialect_name="postgresql", version_table_schema="dlq", output_buffer=config.output_buffer)
    with context.begin_transaction():
        emit = context.get_context().impl.static_output
        emit(definitions.BEGIN)
        emit(definitions.roles())
        emit(definitions.AS_OWNER)
        context.run_migrations()
        for sql in definitions.everything():
            emit(sql)
        for sql in config.attributes["afterwards"]:
            emit(sql)
else:
    context.configure(connection=config.attributes["connection"], version_table_schema="dlq")
    with context.begin_transaction():
        context.run_migrations()
