//! Typed records that a guest sends over its console (`[REC-1]` to `[REC-3]`).
//!
//! A record is one line: [`PREFIX`], then one JSON object. A reader looks for the prefix anywhere
//! in a line (a kernel message without a newline may stand before it) and ignores other lines.
//!
//! | `type` | fields |
//! |---|---|
//! | `platform` | `kernel`, `clocksource`, `clockevent`, `apic`, `idle`, `hypervisor`: strings read inside the guest; `cpus`: online vCPUs; `module`: `none`, `loaded` or `refused: ERRNO` |
//! | `module` | only if the kernel module was asked for: `state`: as above once loaded, `unloaded` or `stuck: ERRNO` behind the works; `idle`: driver/governor; `log`: its own lines; `trouble`: the kernel's warnings since it was loaded; `counters`: by CPU, when unloaded |
//! | `module_cycles` | `cycles`: loads and unloads done; `ok`; `hotplugs`, `turns`, `error`, `trouble` |
//! | `net` | only if data over the network was asked for: `ok`, `error`; `bytes_each_way`, `connections`, `elapsed_ms`, `transmit_queues`; `interrupts`: by queue |
//! | `link` | `down`: whether the network's link went down as it should; `ok` |
//! | `disk-check` | only if asked for: `ok`, `error`; `threads`, `writes`, `reads`, `flushes`: done; `queues`, `serial`, `read_only`, `write_cache`, `physical_block_bytes`, `discard_max_bytes`, `write_zeroes_max_bytes`: what the kernel says of the disk |
//! | `work` | `work`: name; `ops`: operations done; `ok`: the work's own check; `error`: text, only if not ok; `elapsed_ns`; `latency_ns`: `{n, min, median, p99, max}` per operation, or null |
//! | `skip` | `work`: name; `reason`: text |
//! | `done` | `works`: number of `work` records sent before |

/// What starts a record.
pub const PREFIX: &str = "@coopvirt ";

/// The JSON text of a record found in a console line, if there is one (`[REC-2]`).
pub fn find_in_line(line: &str) -> Option<&str> {
    let (_, record) = line.split_once(PREFIX)?;
    Some(record.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rec_2_a_record_is_found_behind_other_text() {
        assert_eq!(
            find_in_line("[ 1.0] x@coopvirt {\"a\":1}\r"),
            Some("{\"a\":1}")
        );
        assert_eq!(find_in_line("plain"), None);
    }
}
