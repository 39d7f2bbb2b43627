package intent

// Kind names a kind of object.
type Kind string

// The kinds that are built.
const (
	KindSite           Kind = "Site"
	KindAgent          Kind = "Agent"
	KindMachine        Kind = "Machine"
	KindMachineType    Kind = "MachineType"
	KindSwitch         Kind = "Switch"
	KindSubnetPool     Kind = "SubnetPool"
	KindNetwork        Kind = "Network"
	KindAsset          Kind = "Asset"
	KindImage          Kind = "Image"
	KindSecret         Kind = "Secret"
	KindProject        Kind = "Project"
	KindUser           Kind = "User"
	KindGroup          Kind = "Group"
	KindRole           Kind = "Role"
	KindQuota          Kind = "Quota"
	KindInfrastructure Kind = "Infrastructure"
	KindInstanceArray  Kind = "InstanceArray"
	KindSSHKey         Kind = "SSHKey"
)
