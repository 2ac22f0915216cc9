"""Every query, as a plain function over a session: `jobs.claim(session, ...)`. Who commits is the caller's business."""
