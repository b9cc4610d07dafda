//! Dates of the Gregorian calendar.

/// A point in time, in the fields of a calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct DateTime {
    pub year: i64,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    pub hour: u8,
    pub minute: u8,
    pub second: u8,
    /// 0 is Sunday. Follows from the others.
    pub weekday: u8,
}

const DAY: i64 = 86_400;
/// Days in 400 years.
const ERA: i64 = 146_097;

impl DateTime {
    /// From seconds since 1970-01-01.
    pub fn from_seconds(seconds: i64) -> Self {
        let (days, second) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
        // Count from 0000-03-01, so that the leap day is a year's last.
        let shifted = days + 719_468;
        let (era, day) = (shifted.div_euclid(ERA), shifted.rem_euclid(ERA));
        let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        // Months from March have 153 days in five.
        let shifted_month = (5 * day_of_year + 2) / 153;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        DateTime {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month: month as u8,
            day: (day_of_year - (153 * shifted_month + 2) / 5 + 1) as u8,
            hour: (second / 3600) as u8,
            minute: (second / 60 % 60) as u8,
            second: (second % 60) as u8,
            weekday: (days + 4).rem_euclid(7) as u8,
        }
    }

    /// To seconds since 1970-01-01. Fields out of range carry over; a month of none is January.
    pub fn to_seconds(self) -> i64 {
        let month = i64::from(self.month.clamp(1, 12));
        let year = self.year - i64::from(month <= 2);
        let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let shifted_month = (month + 9) % 12;
        let day_of_year = (153 * shifted_month + 2) / 5 + i64::from(self.day) - 1;
        let day = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        (era * ERA + day - 719_468) * DAY
            + i64::from(self.hour) * 3600
            + i64::from(self.minute) * 60
            + i64::from(self.second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_days() {
        let date = DateTime::from_seconds(951_782_400);
        assert_eq!((date.year, date.month, date.day, date.weekday), (2000, 2, 29, 2));
        let date = DateTime::from_seconds(0);
        assert_eq!((date.year, date.month, date.day, date.weekday), (1970, 1, 1, 4));
    }

    #[test]
    fn every_day_of_four_centuries_round_trips() {
        for day in -ERA / 2..ERA / 2 {
            let seconds = day * DAY + 12_345;
            assert_eq!(DateTime::from_seconds(seconds).to_seconds(), seconds);
        }
    }
}
