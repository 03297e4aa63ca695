//! What came of attaching a sandbox: its addresses, and what each plugin list answered.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::intent::Format;
use super::result::{self, AddResult, Dns, Route};
use super::settings::IpPreference;
use crate::model::{Context, Error, Result};

/// The interface whose addresses are the pod's.
const MAIN_INTERFACE: &str = "eth0";

/// The result of attaching a sandbox to its networks. Its JSON names its version; another one is refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attachment {
    format: Format,
    /// The pod's address.
    pub primary_ip: IpAddr,
    /// Its further addresses, in the order of preference.
    pub additional_ips: Vec<IpAddr>,
    /// By the name that the result gives it: ends of pairs on the node are among them.
    pub interfaces: BTreeMap<String, AttachedInterface>,
    /// One a network.
    pub dns: Vec<Dns>,
    /// Of all networks.
    pub routes: Vec<Route>,
    /// The answers themselves, in the order of the networks: a DEL hands them back.
    pub(super) results: Vec<NetworkResult>,
}

/// One interface of an attachment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachedInterface {
    /// Its addresses.
    pub ips: Vec<AttachedIp>,
    /// Hardware address.
    pub mac: String,
    /// The network namespace it is in; empty for the node's.
    pub sandbox: String,
    /// PCI device, where it is one.
    pub pci_id: String,
    /// Socket of a user-space device, where it is one.
    pub socket_path: String,
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachedIp {
    /// The address.
    pub ip: IpAddr,
    /// The gateway; empty for none.
    pub gateway: String,
}

/// What one network's list of plugins answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct NetworkResult {
    pub(super) network: String,
    pub(super) ifname: String,
    pub(super) result: Value,
}

impl Attachment {
    /// Puts the answers of all networks together.
    ///
    /// # Errors
    /// `Internal` where an answer cannot be read or `eth0` got no address.
    pub(super) fn assemble(results: Vec<NetworkResult>, prefer: IpPreference) -> Result<Self> {
        let mut interfaces = BTreeMap::new();
        let (mut dns, mut routes) = (Vec::new(), Vec::new());
        for answer in &results {
            let read = result::read(&answer.result)
                .and_then(|read| add_interfaces(&mut interfaces, &read).map(|()| read))
                .context(|| format!("network {}", answer.network))?;
            dns.push(read.dns);
            routes.extend(read.routes);
        }
        let main = interfaces.get(MAIN_INTERFACE);
        let ips = main.map(|main: &AttachedInterface| main.ips.iter().map(|ip| ip.ip).collect());
        let mut ips: Vec<IpAddr> = ips.unwrap_or_default();
        put_preferred_first(&mut ips, prefer);
        let mut ips = ips.into_iter();
        let primary_ip = ips.next().ok_or_else(|| {
            let named: Vec<&String> = interfaces.keys().collect();
            Error::internal(format!(
                "the network plugins gave {MAIN_INTERFACE} no address (interfaces in the result: {named:?})"
            ))
        })?;
        Ok(Self {
            format: Format,
            primary_ip,
            additional_ips: ips.collect(),
            interfaces,
            dns,
            routes,
            results,
        })
    }

    /// The form in which containerd's CRI plugin keeps this in its sandbox metadata, as `CNIResult`.
    pub fn cni_result(&self) -> Value {
        let interfaces = self.interfaces.iter().map(|(name, interface)| {
            let ips = interface.ips.iter();
            let ips: Vec<Value> = ips
                .map(|ip| json!({"IP": ip.ip.to_string(), "Gateway": ip.gateway}))
                .collect();
            let value = json!({
                "IPConfigs": if ips.is_empty() { Value::Null } else { ips.into() },
                "Mac": interface.mac,
                "Sandbox": interface.sandbox,
                "PciID": interface.pci_id,
                "SocketPath": interface.socket_path,
            });
            (name.clone(), value)
        });
        json!({
            "Interfaces": Value::Object(interfaces.collect()),
            "DNS": self.dns,
            "Routes": if self.routes.is_empty() { Value::Null } else { json!(self.routes) },
        })
    }

    /// What `network` answered for `ifname`.
    pub(super) fn result_of(&self, network: &str, ifname: &str) -> Option<&Value> {
        let mut results = self.results.iter();
        results
            .find(|answer| answer.network == network && answer.ifname == ifname)
            .map(|answer| &answer.result)
    }
}

fn add_interfaces(
    interfaces: &mut BTreeMap<String, AttachedInterface>,
    result: &AddResult,
) -> Result<()> {
    for interface in &result.interfaces {
        let entry: &mut AttachedInterface = interfaces.entry(interface.name.clone()).or_default();
        entry.mac.clone_from(&interface.mac);
        entry.sandbox.clone_from(&interface.sandbox);
        entry.pci_id.clone_from(&interface.pci_id);
        entry.socket_path.clone_from(&interface.socket_path);
    }
    for ip in &result.ips {
        let owner = result::owner(result, ip).map_or(MAIN_INTERFACE, |owner| &owner.name);
        let entry = interfaces.entry(owner.to_owned()).or_default();
        entry.ips.push(AttachedIp {
            ip: ip.ip()?,
            gateway: ip.gateway.clone(),
        });
    }
    Ok(())
}

fn put_preferred_first(ips: &mut [IpAddr], prefer: IpPreference) {
    let preferred = match prefer {
        IpPreference::Ipv4 => ips.iter().position(IpAddr::is_ipv4),
        IpPreference::Ipv6 => ips.iter().position(IpAddr::is_ipv6),
        IpPreference::AsReturned => None,
    };
    if let Some(front) = preferred.and_then(|at| ips.get_mut(..=at)) {
        front.rotate_right(1);
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn assemble(results: &[Value], prefer: IpPreference) -> Result<Attachment> {
        let results = results
            .iter()
            .enumerate()
            .map(|(index, result)| NetworkResult {
                network: format!("net{index}"),
                ifname: format!("eth{index}"),
                result: result.clone(),
            });
        Attachment::assemble(results.collect(), prefer)
    }

    fn dual_stack() -> Value {
        json!({
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "veth1", "mac": "02:00"}, {"name": "eth0", "mac": "02:01", "sandbox": "/run/netns/x"}],
            "ips": [
                {"address": "fd00::5/64", "gateway": "fd00::1", "interface": 1},
                {"address": "10.0.0.5/24", "interface": 1},
                {"address": "10.0.0.6/24", "interface": 1},
                {"address": "169.254.0.1/32", "interface": 0},
            ],
            "routes": [{"dst": "0.0.0.0/0"}],
        })
    }

    #[rstest]
    #[case(IpPreference::Ipv4, ["10.0.0.5", "fd00::5", "10.0.0.6"])]
    #[case(IpPreference::Ipv6, ["fd00::5", "10.0.0.5", "10.0.0.6"])]
    #[case(IpPreference::AsReturned, ["fd00::5", "10.0.0.5", "10.0.0.6"])]
    fn the_preferred_family_gives_the_primary_address(
        #[case] prefer: IpPreference,
        #[case] want: [&str; 3],
    ) {
        let attachment = assemble(&[dual_stack()], prefer).unwrap();
        let ips: Vec<String> = std::iter::once(&attachment.primary_ip)
            .chain(&attachment.additional_ips)
            .map(ToString::to_string)
            .collect();
        assert_eq!(ips, want);
    }

    #[test]
    fn a_single_address_is_primary_whatever_is_preferred() {
        let result = json!({"cniVersion": "1.0.0", "ips": [{"address": "fd00::5/64"}]});
        let attachment = assemble(&[result], IpPreference::Ipv4).unwrap();
        assert_eq!(attachment.primary_ip.to_string(), "fd00::5");
    }

    #[test]
    fn addresses_without_an_interface_belong_to_eth0() {
        let result = json!({"cniVersion": "0.4.0", "interfaces": [{"name": "veth1"}],
            "ips": [{"version": "4", "address": "10.0.0.5/24"}]});
        let attachment = assemble(&[result], IpPreference::Ipv4).unwrap();
        assert_eq!(attachment.interfaces["eth0"].ips.len(), 1);
        assert!(attachment.interfaces["veth1"].ips.is_empty());
    }

    #[test]
    fn an_address_on_the_node_side_alone_is_no_attachment() {
        let result = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "veth1"}],
            "ips": [{"address": "10.0.0.5/24", "interface": 0}]});
        let error = assemble(&[result], IpPreference::Ipv4).unwrap_err();
        assert!(error.chain().contains("veth1"), "{error}");
    }

    #[test]
    fn the_record_has_the_layout_that_the_plugin_of_containerd_reads() {
        let attachment = assemble(&[dual_stack()], IpPreference::Ipv4).unwrap();
        let eth0 = json!({
            "IPConfigs": [
                {"IP": "fd00::5", "Gateway": "fd00::1"},
                {"IP": "10.0.0.5", "Gateway": ""},
                {"IP": "10.0.0.6", "Gateway": ""},
            ],
            "Mac": "02:01", "Sandbox": "/run/netns/x", "PciID": "", "SocketPath": "",
        });
        let record = attachment.cni_result();
        assert_eq!(record["Interfaces"]["eth0"], eth0);
        assert_eq!(record["DNS"], json!([{}]));
        assert_eq!(record["Routes"], json!([{"dst": "0.0.0.0/0"}]));

        let plain = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "lo"}],
            "ips": [{"address": "10.0.0.5/24"}]});
        let record = assemble(&[plain], IpPreference::Ipv4).unwrap().cni_result();
        assert_eq!(record["Routes"], Value::Null);
        assert_eq!(record["Interfaces"]["lo"]["IPConfigs"], Value::Null);
    }

    #[test]
    fn an_attachment_survives_its_json() {
        let second = json!({"cniVersion": "1.0.0", "ips": []});
        let attachment = assemble(&[dual_stack(), second.clone()], IpPreference::Ipv4).unwrap();
        let json = serde_json::to_string(&attachment).unwrap();
        let read: Attachment = serde_json::from_str(&json).unwrap();
        assert_eq!(read, attachment);
        assert_eq!(read.result_of("net1", "eth1"), Some(&second));
        assert_eq!(read.result_of("net1", "eth0"), None);
    }
}
