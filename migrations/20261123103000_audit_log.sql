-- migrate:up
SET LOCAL lock_timeout = '5s';
SET LOCAL ROLE newsloom_owner;

-- What operators did by hand. Nobody may change or remove a row: newsloom_admin only adds and reads.
CREATE TABLE newsloom.audit_log (
    audit_id bigint GENERATED ALWAYS AS IDENTITY,
    happened_at timestamptz NOT NULL DEFAULT now(),
    database_user text NOT NULL DEFAULT session_user,
    os_user text NOT NULL,
    action text NOT NULL,
    subject text NOT NULL,
    before jsonb,
    after jsonb,
    reason text NOT NULL,
    CONSTRAINT audit_log_pkey PRIMARY KEY (audit_id)
);
COMMENT ON TABLE newsloom.audit_log IS 'What operators changed by hand: who, when, what, why.';
COMMENT ON COLUMN newsloom.audit_log.audit_id IS 'Orders the entries.';
COMMENT ON COLUMN newsloom.audit_log.happened_at IS 'When it was done.';
COMMENT ON COLUMN newsloom.audit_log.database_user IS 'Who had logged in to Postgres.';
COMMENT ON COLUMN newsloom.audit_log.os_user IS 'User and host of the command, as it says itself.';
COMMENT ON COLUMN newsloom.audit_log.action IS 'What was done, as the command is called: offsets rebase, ...';
COMMENT ON COLUMN newsloom.audit_log.subject IS 'What it was done to.';
COMMENT ON COLUMN newsloom.audit_log.before IS 'How it was; no article text.';
COMMENT ON COLUMN newsloom.audit_log.after IS 'How it is since then; no article text.';
COMMENT ON COLUMN newsloom.audit_log.reason IS 'Why, in the operator''s words.';

GRANT SELECT, INSERT ON newsloom.audit_log TO newsloom_admin;

RESET ROLE;

-- migrate:down
DROP TABLE newsloom.audit_log;
