"""The rows of a partition may come back after others have replaced them: as another revision of the same digest."""

from alembic import op

revision = "0004"
down_revision = "0003"

COLUMNS = ["model", "key", "digest"]
NAMED = {"uq": "uq_%(table_name)s_%(column_0_N_name)s"}  # SQLite has no names for them


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint("partitions_model_key_digest_key", "partitions", type_="unique")
        return
    with op.batch_alter_table("partitions", naming_convention=NAMED) as table:
        table.drop_constraint("uq_partitions_model_key_digest", type_="unique")


def downgrade() -> None:
    with op.batch_alter_table("partitions", naming_convention=NAMED) as table:
        table.create_unique_constraint("partitions_model_key_digest_key", COLUMNS)
