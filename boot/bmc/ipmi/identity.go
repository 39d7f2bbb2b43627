package ipmi

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/skerry-metal/skerry/boot/bmc"
)

// Identify reads the device id, the system GUID and the FRU of the machine. Firmware is as ipmitool shows it. MACs are none: IPMI knows
// only the controller's own.
func (c *Controller) Identify(ctx context.Context) (bmc.Identity, error) {
	id, err := c.identify(ctx)
	if err != nil {
		return bmc.Identity{}, fmt.Errorf("cannot identify: %w", err)
	}
	return id, nil
}

func (c *Controller) identify(ctx context.Context) (bmc.Identity, error) {
	b, err := c.read(ctx, cmdDeviceID)
	if err != nil {
		return bmc.Identity{}, err
	}
	if len(b) < 11 {
		return bmc.Identity{}, fmt.Errorf("cannot read device id: %d octets", len(b))
	}
	id := bmc.Identity{Firmware: fmt.Sprintf("%d.%02x", b[2]&0x7f, b[3])}
	maker := uint32(b[6]) | uint32(b[7])<<8 | uint32(b[8]&0x0f)<<16
	product := binary.LittleEndian.Uint16(b[9:])
	guid, err := c.read(ctx, cmdSystemGUID)
	if err == nil && len(guid) >= 16 {
		id.UUID = uuid([16]byte(guid))
	} else if err != nil && code(err) == 0 {
		return bmc.Identity{}, err
	}
	f, err := c.fru(ctx)
	if err != nil && code(err) == 0 && !errors.Is(err, errFRU) {
		return bmc.Identity{}, err
	}
	id.Vendor = cmp.Or(f.maker, vendor(maker))
	id.Model = cmp.Or(f.model, fmt.Sprintf("product %d", product))
	id.Serial = f.serial
	return id, nil
}

// Inventory returns the identity: IPMI knows no processors, memory, drives or ports.
func (c *Controller) Inventory(ctx context.Context) (bmc.Report, error) {
	id, err := c.identify(ctx)
	if err != nil {
		return bmc.Report{}, fmt.Errorf("cannot read inventory: %w", err)
	}
	return bmc.Report{Identity: id}, nil
}

// vendor names a maker by its IANA enterprise number, where a rack is likely to have one.
func vendor(number uint32) string {
	name := map[uint32]string{
		2: "IBM", 11: "HPE", 343: "Intel", 674: "Dell", 2011: "Huawei", 5771: "Cisco", 6653: "Tyan", 10368: "Fujitsu", 10876: "Supermicro",
		15370: "Gigabyte", 19046: "Lenovo", 20301: "IBM", 20974: "AMI", 37945: "Inspur", 47196: "HPE", 49769: "YADRO",
	}[number]
	return cmp.Or(name, fmt.Sprintf("IANA %d", number))
}

// uuid writes a system GUID as SMBIOS has it. Source: section 20.8 says that the GUID goes lowest octet first, all of it; what most
// controllers send are the octets of the SMBIOS table, where the first three fields alone are turned round; some send them as they
// are printed. The version and variant tell which: the first order in which they make sense, the commonest first.
func uuid(g [16]byte) string {
	smbios := [16]byte{g[3], g[2], g[1], g[0], g[5], g[4], g[7], g[6]}
	copy(smbios[8:], g[8:])
	var turned [16]byte
	for i, v := range g {
		turned[15-i] = v
	}
	for _, o := range [][16]byte{smbios, turned, g} {
		if v := o[6] >> 4; v >= 1 && v <= 8 && o[8]>>6 == 2 {
			return hyphens(o)
		}
	}
	return hyphens(smbios)
}

func hyphens(g [16]byte) string {
	if g == ([16]byte{}) {
		return ""
	}
	h := hex.EncodeToString(g[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
