"""The hash of the file of accepted rows, so that one that was altered is told from the one that was judged."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("partitions", sa.Column("accepted_sha256", sa.String(64)))


def downgrade() -> None:
    op.drop_column("partitions", "accepted_sha256")
