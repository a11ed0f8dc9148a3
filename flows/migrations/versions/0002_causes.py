"""Causes of a training and what has been taken from the landing folders."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "causes",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("key", sa.String(80), nullable=False, unique=True),
        sa.Column("model", sa.String(40), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("event", sa.String(80), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("payload", sa.JSON, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("sent_at", TIME),
        sa.Column("claimed_by", sa.String(64)),
        sa.Column("claimed_at", TIME),
        sa.Column("answered_at", TIME),
        sa.Column("outcome", sa.Text),
    )
    op.create_table(
        "arrivals",
        sa.Column("model", sa.String(40), primary_key=True),
        sa.Column("path", sa.Text, primary_key=True),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("modified_ns", sa.BigInteger, nullable=False),
        sa.Column("taken_at", TIME, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("arrivals")
    op.drop_table("causes")
