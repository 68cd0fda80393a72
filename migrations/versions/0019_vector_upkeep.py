"""Which organizations need vectors of another model, or an index of their vectors."""

from alembic import op

revision = "0019"
down_revision = "0018"

GRANTS = "GRANT SELECT ON search_generations, search_stats TO aiworkspace_lookup"

# As in the first migration: each answers one question that comes before a tenant is known, and no other.
LOOKUPS = """
CREATE FUNCTION list_orgs_to_embed(p_generation integer, p_limit integer) RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT s.org_id FROM search_generations s
  WHERE s.active IS DISTINCT FROM p_generation OR s.next IS NOT NULL LIMIT p_limit
$$;
CREATE FUNCTION list_large_orgs(p_least bigint, p_limit integer) RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT s.org_id FROM search_stats s GROUP BY s.org_id HAVING sum(s.chunk_count) > p_least LIMIT p_limit
$$;
"""
FUNCTIONS = ("list_orgs_to_embed(integer, integer)", "list_large_orgs(bigint, integer)")


def upgrade() -> None:
    for statement in (GRANTS, LOOKUPS):
        op.execute(statement)
    for table in ("search_generations", "search_stats"):
        op.execute(f"CREATE POLICY lookup ON {table} FOR SELECT TO aiworkspace_lookup USING (true)")
    op.execute("GRANT CREATE ON SCHEMA public TO aiworkspace_lookup")  # PostgreSQL asks this of a function's new owner
    for function in FUNCTIONS:
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO aiworkspace_app")
        op.execute(f"ALTER FUNCTION {function} OWNER TO aiworkspace_lookup")
    op.execute("REVOKE CREATE ON SCHEMA public FROM aiworkspace_lookup")
