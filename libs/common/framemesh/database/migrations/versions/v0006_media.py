"""Media: what was asked for last, and what is published."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go forward."""
    op.create_table(
        "media",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("title", sa.String(200), nullable=False),
        sa.Column("source", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("job", sa.String(120), nullable=False),
        sa.Column("created", sa.Float(53), nullable=False),
        sa.Column("updated", sa.Float(53), nullable=False),
        sa.Column("deleted", sa.Boolean(), nullable=False),
        sa.Column("published", sa.Text()),
    )
    op.create_index("ix_media_created", "media", ["created", "id"])
    op.create_index("ix_media_owner", "media", ["owner", "created", "id"])


def downgrade() -> None:
    """Go back."""
    op.drop_table("media")
