//! Names that a query may not call: what to write instead.

/// What to write instead of a clock or a random number; `None` for all other functions.
pub(in crate::topology) fn nondeterministic(name: &str) -> Option<&'static str> {
    Some(match name {
        "now"
        | "current_timestamp"
        | "localtimestamp"
        | "current_row_timestamp"
        | "unix_timestamp"
        | "current_time"
        | "localtime" => "use the event time: the watermark's column, or a column ts TIMESTAMP_LTZ(3) METADATA FROM 'timestamp'",
        "proctime" => "there is no processing time: use the event time, a column ts TIMESTAMP_LTZ(3) METADATA FROM 'timestamp'",
        "current_date" | "today" => "use the date of the event time: CAST(ts AS DATE)",
        "random" | "rand" | "rand_integer" => "hash a column of the record: md5(key)",
        "uuid" | "gen_random_uuid" => "build an id from the record: its topic, partition and offset are METADATA columns",
        _ => return None,
    })
}

/// Functions that other engines have: what to write here.
pub(in crate::topology) fn substitute(name: &str) -> Option<&'static str> {
    Some(match name.to_lowercase().as_str() {
        "from_unixtime" => "write DATE_FORMAT(TO_TIMESTAMP_LTZ(n, 0), 'yyyy-MM-dd HH:mm:ss')",
        "to_date" => "write CAST(text AS DATE)",
        "to_unixtime" => "write EXTRACT(EPOCH FROM ts)",
        "sha1" | "sha2" => "write encode(digest(text, 'sha256'), 'hex')",
        "sha224" | "sha256" | "sha384" | "sha512" => "write encode(digest(text, 'sha256'), 'hex')",
        "truncate" => "write trunc(n, digits)",
        "locate" => "write strpos(text, part)",
        "regexp_extract" => "write (regexp_match(text, pattern))[1]",
        "json_value" | "json_query" | "json_exists" => "JSON functions are not in this release",
        "to_base64" => "write encode(bytes, 'base64')",
        "from_base64" => "write decode(text, 'base64')",
        "latest_by_offset" => "write LAST_VALUE(x)",
        "earliest_by_offset" => "write FIRST_VALUE(x)",
        "collect_list" | "collect_set" | "collect" => {
            "collecting aggregates are not in this release: their result depends on the order of rows"
        }
        "unnest" => "elements are read by their number: tags[1]",
        "current_watermark" => "late rows go to the late topic: a query does not see the watermark",
        "element" => "write tags[1]",
        "element_at" => "write map['key']",
        "ucase" => "write upper(text)",
        "lcase" => "write lower(text)",
        "len" => "write char_length(text)",
        "stringtotimestamp" => "write TO_TIMESTAMP(text, 'yyyy-MM-dd HH:mm:ss')",
        "session_start" | "hop_start" | "tumble_start" | "windowstart" => "write window_start, of TABLE(TUMBLE(...))",
        "session_end" | "hop_end" | "tumble_end" | "windowend" => "write window_end, of TABLE(TUMBLE(...))",
        "tumble" | "hop" | "cumulate" | "session" => {
            "windows are table functions: FROM TABLE(TUMBLE(TABLE s, DESCRIPTOR(ts), INTERVAL '1' MINUTE))"
        }
        _ => return None,
    })
}
