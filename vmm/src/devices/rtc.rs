//! CMOS clock (MC146818): the host's time of day in UTC, read only.
//!
//! | index | content |
//! |---|---|
//! | 0x00, 02, 04 | seconds, minutes, hours (BCD, 24 h) |
//! | 0x06-09, 0x32 | weekday, day, month, year, century |
//! | 0x0a | status A: never updating, so one read is consistent within a second |
//! | 0x0b | status B: 24-hour mode, BCD; interrupts are not offered |
//! | 0x0d | status D: battery good |

use std::time::{SystemTime, UNIX_EPOCH};

use crate::bus::BusDevice;

const STATUS_B_24_HOURS: u8 = 2;
const STATUS_D_VALID: u8 = 0x80;
const STATUS_A_32768_HZ: u8 = 0x26;

/// The clock behind ports 0x70 and 0x71.
#[derive(Default)]
pub struct Rtc {
    index: u8,
}

impl BusDevice for Rtc {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let Some(first) = data.first_mut() else {
            return;
        };
        *first = if offset == 0 {
            0xff
        } else {
            register(self.index, now_unix_seconds())
        };
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (0, Some(index)) = (offset, data.first()) {
            // Bit 7 masks NMIs, which nothing here raises.
            self.index = index & 0x7f;
        }
    }

    fn name(&self) -> &str {
        "rtc"
    }
}

fn now_unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn register(index: u8, unix_seconds: u64) -> u8 {
    let days = unix_seconds / 86_400;
    let second = unix_seconds % 86_400;
    let (year, month, day) = civil_date(days);
    match index {
        0x00 => bcd(second % 60),
        0x02 => bcd(second / 60 % 60),
        0x04 => bcd(second / 3600),
        // 1 January 1970 was a Thursday; Sunday is day 1.
        0x06 => bcd((days + 4) % 7 + 1),
        0x07 => bcd(day),
        0x08 => bcd(month),
        0x09 => bcd(year % 100),
        0x32 => bcd(year / 100),
        0x0a => STATUS_A_32768_HZ,
        0x0b => STATUS_B_24_HOURS,
        0x0d => STATUS_D_VALID,
        _ => 0,
    }
}

fn bcd(value: u64) -> u8 {
    u8::try_from((value / 10) % 10 * 16 + value % 10).unwrap_or(0)
}

/// Year, month and day of the month for a day number since 1970-01-01.
fn civil_date(mut days: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let mut year = 1970;
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_around_leap_days() {
        assert_eq!(civil_date(0), (1970, 1, 1));
        assert_eq!(civil_date(11_016), (2000, 2, 29));
        assert_eq!(civil_date(11_017), (2000, 3, 1));
        assert_eq!(civil_date(20_453), (2025, 12, 31));
    }

    #[test]
    fn registers_are_bcd() {
        // 2000-02-29 23:59:58 UTC, a Tuesday.
        let time = 11_016 * 86_400 + 86_398;
        let read = |index| register(index, time);
        assert_eq!(
            [read(0x32), read(9), read(8), read(7)],
            [0x20, 0x00, 0x02, 0x29]
        );
        assert_eq!([read(4), read(2), read(0), read(6)], [0x23, 0x59, 0x58, 3]);
    }

    #[test]
    fn any_access_is_harmless() {
        let mut rtc = Rtc::default();
        for index in 0..=255 {
            rtc.write(0, &[index]);
            rtc.write(1, &[index]);
            rtc.read(1, &mut [0; 4]);
            rtc.read(0, &mut []);
        }
    }
}
