//! What there is to list, as far as the command line asks.

/// Listings for `help` as a value. The registries of machines, devices and so on live elsewhere; each
/// text ends with a line feed.
pub trait Catalog {
    /// `-machine help`
    fn machines(&self) -> String;
    /// `-machine NAME,help`
    fn machine_props(&self, name: &str) -> Option<String>;
    /// `-cpu help`
    fn cpus(&self) -> String;
    /// `-accel help`
    fn accels(&self) -> String;
    /// `-device help`
    fn devices(&self) -> String;
    /// `-device NAME,help`
    fn device_props(&self, driver: &str) -> Option<String>;
    /// `-nic model=help`: types of cards; those that boards make by that name, or all.
    fn nic_models(&self, by_board: bool) -> String;
    /// `-object help`
    fn objects(&self) -> String;
    /// `-object TYPE,help`
    fn object_props(&self, type_name: &str) -> Option<String>;
    /// `-chardev help`
    fn chardevs(&self) -> String;
    /// `-d help`
    fn log_items(&self) -> String;
    /// `-trace help`
    fn trace_events(&self) -> String;
    /// `-L help`, after `-L` named directories of its own.
    fn data_dirs(&self, own: &[String]) -> String;
}
